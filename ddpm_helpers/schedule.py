"""How an image becomes noise: the forward processes of the course.

Contract for everything here: images `x` are float tensors of shape (B, ...), batch first; a per-image number such
as an amount has shape (B,). Randomness is an argument, so every function is pure.
"""

from torch import Tensor


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) numbers to (B, 1, ..., 1) so that each multiplies its own image of `like` (B, ...).

    Raises:
        ValueError: if `values` is not one-dimensional with as many entries as `like` has images.

    >>> per_image(torch.rand(5), torch.rand(5, 3, 28, 28)).shape
    torch.Size([5, 1, 1, 1])
    """
    if values.ndim != 1 or like.ndim < 1 or len(values) != len(like):
        raise ValueError(
            f"expected one number per image, shape ({like.shape[0] if like.ndim else '?'},), "
            f"got shape {tuple(values.shape)} for images of shape {tuple(like.shape)}"
        )
    return values.reshape(-1, *[1] * (like.ndim - 1))


def corrupt(x: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Blend each image with noise, along a straight line: (1 - amount) x + amount noise.

    Args:
        x: images (B, C, H, W), float, in [0, 1].
        amount: (B,) float in [0, 1]; 0 leaves the image alone, 1 leaves only noise.
        noise: same shape as `x`, uniform in [0, 1] in notebook 01.

    Returns:
        corrupted images, same shape and dtype as `x`.

    Raises:
        TypeError: if `x` or `amount` is not a float tensor.
        ValueError: if shapes do not fit or an amount lies outside [0, 1].
    """
    for name, tensor in (("x", x), ("amount", amount)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(
                f"corrupt: {name} must be a float tensor, got {found}; "
                "images: x.float() / 255, one amount per image: torch.tensor([0.5])"
            )
    if noise.shape != x.shape:
        raise ValueError(f"corrupt: noise has shape {tuple(noise.shape)}, images have {tuple(x.shape)}")
    weight = per_image(amount, x)  # (B, 1, 1, 1)
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise ValueError(f"corrupt: amounts must lie in [0, 1], got {amount.min().item():g} to {amount.max().item():g}")
    return (1 - weight) * x + weight * noise
