"""The small helper module behind the course's notebooks: seven files are its core, see README.md beside this one.

Public names are gathered here; `from ddpm_helpers import viz` loads the plotting part, and matplotlib with it.
"""

from .data import DataError as DataError
