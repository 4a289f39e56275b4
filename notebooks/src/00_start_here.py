# %% [markdown]
# # Start here
#
# ![Five rows: on the left noise turns into digits, on the right the network's guesses](../figures/01_five_steps.png)
#
# *Top to bottom: noise becomes digits, some of them broken, in five small steps (left), led by what a network predicts at each step (right). The
# last prediction is the result. You train this network in the next notebook.*
#
# **You will** check your machine, look at the data byte by byte, and solve a first exercise that marks itself.
# **You need** a little Python and the idea of an average. **Time** 5 minutes of reading; the cells run in 10 seconds
# on 2 CPU cores; no GPU is needed.

# %% [markdown]
# ## How to read these notebooks
#
# Run the cells from top to bottom: click one, press Shift-Enter, read what appears, go on. While a cell works, a star
# stands in the brackets beside it. Cells share their variables, so if you change one, run those below it again; *Run >
# Restart Kernel and Run All Cells* starts over. Every notebook runs alone, so you can start anywhere, and every one
# works without an internet connection. The first cell makes sure that the course's helper module is there. A term is in
# bold where it is explained; all terms and symbols are collected in [notebook 99](99_glossary.ipynb).

# %% tags=["setup"]
REPO = ""  # owner/name on GitHub; `make badges REPO=owner/name` fills it in
try:
    import ddpm_helpers
except ImportError:
    assert REPO, "The helper module is missing: start this notebook with `make lab`, or see Colab in the README."
    get_ipython().run_line_magic("pip", f"install -q git+https://github.com/{REPO}")

import gzip
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ddpm_helpers import check, environment_report, load_images, read_idx, to_uint8, verify, viz

# %% [markdown]
# ## Your machine
#
# If something goes wrong later, paste this report into your question. It is the first thing that anybody will ask for.
# (The last three lines are settings: where your images are, how long to train, and whether a wrong answer stops the
# notebook, which only tests want.)

# %%
print(environment_report())

# %% [markdown]
# ## The data
#
# Most of the course uses MNIST (LeCun et al. 1998): handwritten digits, scanned around 1990, 28 x 28 grey pixels each.
# `load_images` takes them from your data folder if they are there (the one that the variable `DDPM_DATA` names, else
# `data` beside this notebook), else downloads them, and where there is no connection it draws digits of its own. The last line below says which of the three happened to you. (Captions describe
# what MNIST gives; drawn digits tell the same story with other pictures.)

# %%
data = load_images("mnist")
print(tuple(data.images.shape), data.images.dtype)  # (N, C, H, W): images, channels, height, width
print(data.source)

# %%
viz.image_grid(data.images[:32], columns=16, alt="32 handwritten digits, white on black, in two rows")

# %% [markdown]
# *Look for two digits of the same kind that differ a lot: slant, thickness, an open or a closed loop. A model that has
# learned only "the average digit" would lose exactly these differences. That is the failure to watch for.*
#
# ## What is in the file
#
# The files of MNIST have a format of their own, IDX, and it is simple enough to read by hand. First comes a header: two
# zero bytes, a code for the type of the values (8 means uint8), the number of axes, and then the length of each axis as
# a 32-bit integer, most significant byte first. After the header there is nothing but values. Let us write such a file
# with three images, compress it as the original files are, and look at the first 16 bytes of what is in it.

# %%
three = data.images[:3, 0]  # (3, 28, 28)
folder = TemporaryDirectory()
path = Path(folder.name) / "three-images-idx3-ubyte.gz"
header = struct.pack(">4B3I", 0, 0, 8, 3, *three.shape)
path.write_bytes(gzip.compress(header + three.numpy().tobytes()))
print(gzip.decompress(path.read_bytes())[:16].hex(" ", 4))

# %% [markdown]
# *Four groups of four bytes. The first ends in `08 03`: type 8, three axes. Then 3 images of `1c` by `1c`, which is
# hexadecimal for 28. `read_idx` does the reverse, and refuses a file that is shorter or longer than its header says.*

# %% tags=["nbval-check-output"]
print(read_idx(path).shape, (read_idx(path) == three.numpy()).all())

# %% [markdown]
# ## Two forms of an image
#
# On disk and in memory an image is uint8: integers from 0 (black) to 255 (white). Inside a diffusion model it is a
# float between -1 and 1, so that mid-grey is 0 and pixel values have a range like that of the noise that will be added.
# With $u$ for the integer and $x$ for the float:
#
# $$x = \frac{2u}{255} - 1 \tag{0.1}$$
#
# ### Exercise 0.1 - `to_float`
#
# Exercises look like this one: a function with `...` where your lines go, and `check` under it. Run the cell as it
# stands first. You are told that the exercise is yours to write, and the notebook goes on with the course's own version.
# So nothing breaks if you skip one.
#
# Then write it: turn uint8 images of any shape into 32-bit floats, float32, by (0.1). One line is enough. (`images` is a
# **tensor**, PyTorch's array: arithmetic, slices and methods like `.mean()` work as in NumPy, and `torch.sqrt` stands in
# for `np.sqrt`.)

# %% tags=["exercise", "nbval-check-output"]
def to_float(images):
    ...  # one line


to_float = check(to_float)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `images.float()` makes floats of the integers. Do that before you multiply.
#
# </details>
#
# Before you leave, give a wrong answer on purpose. Return `images * 2 / 255 - 1`, without `.float()`, and run the cell
# again. Guess first what is wrong with it. A check names the mistakes that people often make; for
# anything else it shows the call that failed and how far off you were. If you are stuck,
# `from ddpm_helpers import show_solution` and `show_solution("to_float")` print the course's version. (Type both lines
# into a new cell; the + above the notebook makes one.) And should a check ever not come back, a loop in your answer has
# no end: the square above the notebook stops the cell (in Colab, the one at its left).

# %% [markdown]
# ## Every equation is run
#
# Each equation with a number is *run*: a cell near it computes both sides, or something that must follow from it,
# prints how far apart they are (relative to the largest value on the right; where draws are averaged, in standard
# errors, which [notebook 02](02_forward_process.ipynb) explains), and stops the notebook if that is too far. Here is (0.1) for 0, 102 and 255, with the right-hand side
# worked out by hand.

# %% tags=["nbval-check-output"]
verify("0.1", to_float(torch.tensor([0, 102, 255], dtype=torch.uint8)), torch.tensor([-1.0, -0.2, 1.0]))

# %% [markdown]
# ## And back
#
# To look at a picture that a model made, we need the reverse. A model is free to answer 1.3 or -2, so the reverse
# rounds, and *clips* what lies outside of the range:
#
# $$u = \mathrm{clip}\left(\mathrm{round}\left(\tfrac{255}{2}\,(x + 1)\right),\ 0,\ 255\right) \tag{0.2}$$
#
# For every one of the 256 greys, there and back must change nothing.

# %% tags=["nbval-check-output"]
greys = torch.arange(256, dtype=torch.uint8)
verify("0.2", to_uint8(to_float(greys)), greys, tol=0)
print(to_uint8(torch.tensor([-2.0, 1.3])))

# %% [markdown]
# *The second line shows the clipping: -2 becomes 0 and 1.3 becomes 255. On many machines a plain cast wraps around instead:
# a pixel a little darker than black, -1.01, becomes 255, a white dot in a black corner.*
#
# ## What to remember, and what broke
#
# - An image is uint8 on disk and a float in [-1, 1] inside a model. `to_float` is the way in, `to_uint8` the way out.
# - `check` marks an exercise, and the notebook goes on in any case. `verify` computes both sides of an equation, and
#   stops the notebook if they differ.
# - The course invents diffusion models from nothing, and repairs one failure at a time.
#
# **What broke:** nothing yet. We can read, show and convert images, but we cannot make one.
# [Notebook 01](01_corrupt_and_predict.ipynb) trains a network to repair damaged digits, and asks whether such a network
# can also invent new ones. It can, a little.
#
# ### Experiments to try
#
# - Change one byte of the header of the three images, or leave off the last pixel. What does `read_idx` say?
# - Load `load_images("fashion")` instead. Which two kinds of clothing would you confuse at 28 x 28 pixels?
# - A float slightly below -1 becomes 0 in `to_uint8`. What does `((x + 1) * 127.5).to(torch.uint8)` make of it on your
#   machine?
