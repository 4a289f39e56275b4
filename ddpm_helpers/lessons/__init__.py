<<<<<<< HEAD
"""Machinery of one notebook each, named after it; what several notebooks use is in the package itself."""
=======
"""Machinery of one notebook each, named after it."""
>>>>>>> w-lessons
