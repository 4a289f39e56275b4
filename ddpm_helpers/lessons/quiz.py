"""The cases of notebook 13: what is wrong with each of the broken systems of `clinic`, four answers to choose from."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from . import clinic

LETTERS = "abcd"
# A block for each case: the fault in `clinic`, and the symptom, for those who cannot see the picture. Then the four
# diagnoses, the right one marked "+", and below each what is said to those who choose it.
TEXT = """
broadcast_loss: noise in every square, hardly a trace of a digit
- It was not trained for long enough
  Then the loss would still be falling, first at large t, where x_t is almost noise. This one is level, and stays.
- The learning rate is too large
  Then the loss would be restless, and at times far above 1, the loss of the answer 0. This one is steady.
+ The loss compares every image with all of its batch: (B, H, W) met (B, 1, H, W)
  The best answer to 16 noises at once is their mean. So the loss ends near 1, at every t alike, whatever the patience.
- The sampler adds noise at the last step
  Then finished digits would show through a fine grain. And the loss, which knows no sampler, would be low.

no_time: grey digits under even noise
- The sampler adds noise at the last step
  The loss would not notice, and its curve would lie at 0. This one is bad at small t before any sampler has run.
+ The network does not hear the time t
  One answer serves all amounts of noise: right near one t, and wrong on both sides of it.
- The images were left in [0, 1]
  Then black would be an even grey, without grain, and the loss would be low.
- Samples come from an average of the weights that still holds the start
  The loss is measured with the last weights: it would be low at every t.

young_average: noise in which a digit can be suspected here and there
- It was not trained for long enough
  Then the loss would be high. It is almost 0 at every t.
- The network does not hear the time t
  Then the loss would be low near one t only.
- The sampler draws torch.rand instead of torch.randn
  Then the samples would be clean digits, nearly all the same one or two. These are noise, and each is different.
+ The samples come from an average of the weights that still holds the start
  The curve belongs to the last weights, the samples to others: an average with decay 0.9999 holds a share 0.9999^n of
  the start after n steps, 90 % after 1000.

no_square_root: digits with black and white dirt all over them
+ Training mixed alpha_bar x_0 + (1 - alpha_bar) eps: the square roots are missing
  The training loop is consistent with itself, so its loss is low. At small t, where alpha_bar is above 1/2, the
  sampler's x_t holds more noise than the network has seen at that t, and the rest stays in the picture.
- The sampler adds noise at the last step
  That noise has the standard deviation sqrt(beta_1): a few grey levels of 255. This dirt reaches from black to white.
- The network is in train mode while sampling
  Dropout would show in the loss, too, which is measured in train mode: it would not be 0.
- Values below black went through uint8 and came out white
  Then black ground would have white specks, and white strokes black ones, with nothing between. Here many are grey.

wrapped_bytes: clean digits with many single white pixels around them
- Training mixed without the square roots
  Then much of the dirt would be grey. Here a pixel is either right or white (in a stroke: black).
- The sampler adds noise at the last step
  That noise would be faint: grey on black. These specks are as far from the truth as a pixel can be.
+ The samples went to uint8 without clipping
  A byte has no -1: 0 - 1 is 255. A sampler ends a little above black, or below, and what is below comes out white.
- The network is in train mode while sampling
  What dropout disturbs at one step the next one repairs: no single white pixels are left. And the loss would show it.

unit_range: perfect digits, in white on grey instead of on black
+ The training images lie in [0, 1], the display expects [-1, 1]
  The network has learned what it was shown, in its range. Its 0 is meant as black and shown as grey.
- A norm over the whole image hides the brightness from the network
  Then each picture would have a brightness of its own. Here the ground is the same grey everywhere.
- Each picture is stretched to its own darkest and brightest pixel when shown
  Then the darkest pixel of each would be black.
- It was not trained for long enough
  Then the strokes would be rough and the loss high. Both are as good as they can be.

blind_to_brightness: squares that are all white or all black, a few with a digit in them
- The training images lie in [0, 1], the display expects [-1, 1]
  Then all pictures would have the same grey ground.
- The samples went to uint8 without clipping
  That happens to single pixels; here whole pictures are too bright or too dark.
- The sampler does not clip its guess of the clean image
  True, it does not clip. But a model that sees the brightness stays in range without clipping, too.
+ A norm over the whole input hides the brightness from the network
  It cannot see the image's mean. Noise moves that at each step, and nothing moves it back: a random walk.

rescaled_pictures: clean digits that look as they should
- The network repeats its training images
  Then the nearest training image would be close to each sample. It is far.
+ Each picture is stretched to its own darkest and brightest pixel when it is shown
  Stretched, a picture from 9 to 11 and one from -1 to 1 look the same: the fault of case 7 is there, and hidden.
- The network makes a few of the digits only
  Then the mean brightness would hardly differ from that of the images. And there are many sorts in the picture.
- 32 samples are too few to trust the numbers
  A mean of 32 is uncertain by a sixth of the spread. That explains no spread that is a hundred times too wide.

uniform_noise: the same two digits over and over
- The network has learned a few images only
  Then the loss, which is a mean over all 64, would be high.
+ The sampler draws its noise with torch.rand
  torch.rand has the mean 1/2 and the variance 1/12: every start is bright and almost the same, as is all later noise.
- Every image gets the same noise, because the seed is set again for each
  Then all would be one digit, the same to the last bit. With MNIST there are two here; and look at the noise itself.
- Training mixed without the square roots
  Then the samples would be dirty, and as varied as ever.

alpha_for_alpha_bar: digits, too many of them with broad strokes, zeros most of all
- The sampler adds noise at the last step
  Then grain would be left, and the choice of digits would not change.
- Training mixed without the square roots
  Then noise would be left over in the samples. These are clean.
- The forward process does not end in noise, since it has too few steps for its betas
  Then alpha_bar[T] would be far from 0. It is printed below the picture: it is not.
+ The training loop's closed form has alpha_t where alpha_bar_t belongs
  Its x_t is never noisier than one step makes it: no preparation for what the sampler starts with.

never_noise: digits with strokes that are bolder than those above, and of few sorts
+ The forward process does not end in noise
  Look at the axis: 50 steps, with the betas of 1000. The network has met no noise without an image in it, and takes
  pure noise for a faint image with much ink.
- The sampler draws its noise with torch.rand
  Then all the samples would be the same one or two.
- The network has learned a few images only
  Then the loss, which is a mean over all 64, would be high.
- The network is in train mode while sampling
  Then the loss, measured in train mode, would not be 0.

no_fine_skip: digits in coarse blocks, in most columns the one above
- The network does not hear the time t
  Then noise would be left over, and the loss would be bad at large t, too.
- The training images were shrunk to 14 x 14 and enlarged again
  Then blocks would be all that there is to learn, and the loss would be low at small t, too.
+ The finest skip connection is not used
  What is finer than the blocks finds no way through. At small t all that is left to find is fine: the loss is worst.
- The sampler takes too few steps
  Then strokes would be soft or misplaced, but no grid would show, and the loss knows nothing of the number of steps.

gradient_times_loss: smudges in both rows, almost alike
+ The code says loss.backward(loss)
  That scales each step by the loss itself. Steps shrink as things get better, and the end is never reached.
- The network is too small
  It is the same network as in the upper row, and that one reaches the black line.
- The network does not hear the time t
  Then the curve would touch the black line near one t and leave it on both sides. This one keeps its distance.
- Samples come from an average of the weights that still holds the start
  The curve is that of the last weights. It would lie on the black line.

train_mode: clean digits in both rows, in many columns not the same ones
- It was not trained for long enough
  Then the loss would be small at large t, where the answer is easy, and fall with t. This one is the same at every t.
- In the loss, every image is compared with all of its batch
  The curve would be level, too, but close to 1, and the samples would be noise.
- The sampler draws its noise with torch.rand
  Then all the samples would be the same one or two. And the loss would not notice.
+ The network is in train mode while sampling
  Dropout sets a tenth of the answers to 0, whatever t is. The sampler repairs most of it: the pictures do not tell.

off_by_one: clean digits in both rows, the same ones; the curve has a spike at the smallest steps
- The finest skip connection is not used
  Then blocks would show in the samples. These are as sharp as the images.
+ The sampler counts steps from 0, the training loop from 1
  Near t = 1 a step changes the noise by a large factor, near T by almost none: only there it matters to be one off.
- beta_1 is too small for this network
  Then the loss of the training loop would have the spike, too, and it has none.
- The network does not hear the time t
  Then the loss would be bad over most of the range.

noisy_last_step: eight times brighter than they are, the digits of the lower row have a grain in the black
- The samples went to uint8 without clipping
  Then white specks would show without any brightening.
- It was not trained for long enough
  Then the loss would be high. It is almost 0 at every t.
+ The sampler adds noise at the last step, too
  Its standard deviation is sqrt(beta_1), a few grey levels. The loss never sees the sampler.
- Training mixed without the square roots
  Then the dirt would show without any brightening.
"""


def stretched(samples: Tensor) -> Tensor:
    """Each picture of (N, C, H, W) stretched to its own darkest and brightest pixel."""
    low, high = samples.amin((1, 2, 3), keepdim=True), samples.amax((1, 2, 3), keepdim=True)
    return 2 * (samples - low) / (high - low) - 1


def brightened(samples: Tensor) -> Tensor:
    """Eight times as bright: the darkest eighth of the greys fills the whole range."""
    return (samples + 1) * 8 - 1


@dataclass(frozen=True)
class Case:
    """One broken system, and the four diagnoses that a reader chooses from."""

    number: int
    fault: Callable[[Tensor], clinic.System]  # images (N, C, H, W) in [-1, 1] -> the broken system
    twin: Callable[[Tensor], clinic.System]  # the same system, repaired
    shown: Callable[[Tensor], Tensor]  # what the author's code does to samples before it shows them
    seen: str  # the symptom
    letter: str  # of the right choice
    choices: dict[str, str]  # letter -> diagnosis
    replies: dict[str, str]  # letter -> what is said to it

    def reply(self, letter: str) -> str:
        """What to say to a choice, a letter of either case."""
        chosen = str(letter).lower()
        if chosen not in self.choices:
            raise ValueError(f"case {self.number} has the choices a, b, c and d; got {letter!r}")
        return f"{f'Yes: {chosen}' if chosen == self.letter else f'No, not {chosen}'}. {self.replies[chosen]}"

    def __str__(self) -> str:
        choices = (f"  {letter}  {text}" for letter, text in self.choices.items())
        return "\n".join([f"Case {self.number}: what is wrong?", *choices])


def _case(number: int, block: str) -> Case:
    head, *answers = re.split(r"\n(?=[-+] )", block)
    fault, _, seen = head.partition(": ")
    twin = clinic.trained_lines if fault == "gradient_times_loss" else clinic.healthy
    shown = {"rescaled_pictures": stretched, "noisy_last_step": brightened}.get(fault, Tensor.clone)  # as it is
    right, choices, replies = "", {}, {}
    for letter, answer in zip(LETTERS, answers, strict=True):
        choices[letter], reply = answer[2:].split("\n", 1)
        replies[letter] = " ".join(reply.split())
        right += letter * (answer[0] == "+")
    return Case(number, getattr(clinic, fault), twin, shown, seen, right, choices, replies)


CASES = tuple(_case(number, block) for number, block in enumerate(TEXT.strip().split("\n\n"), start=1))


def case(number: int) -> Case:
    """One of the cases, numbered from 1."""
    if number not in range(1, len(CASES) + 1):
        raise ValueError(f"there are cases 1 to {len(CASES)}; got {number!r}")
    return CASES[int(number) - 1]


def answer(number: int, letter: str) -> None:
    """Answer a case without widgets: `answer(1, "a")` prints what the radio button prints."""
    print(case(number).reply(letter))
