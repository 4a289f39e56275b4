"""The small helper module behind the course's notebooks.

Public names are gathered here; `from ddpm_helpers import viz` loads the plotting part, and matplotlib with it.
"""

from .checkpoint import CheckpointError, Pretrained, load_pretrained
from .data import DataError, ImageData, batches, load_images, read_idx, to_float, to_uint8
from .digits import synthetic_digits
from .exercises import AnswerError, EquationError, check, show_solution, verify
from .nets import BasicUNet, LayerNormUNet, SimpleUNet, UNet, count_parameters, sinusoidal_embedding
from .sampling import (
    Step,
    ddim_invert,
    ddim_step,
    ddim_steps,
    ddim_trajectory,
    ddpm_step,
    ddpm_trajectory,
    image_noise,
    naive_step,
    naive_trajectory,
    sample,
    slerp,
)
from .schedule import (
    NoiseSchedule,
    corrupt,
    cosine_schedule,
    forward_step,
    linear_beta,
    linear_schedule,
    per_image,
    posterior,
    predict_eps,
    predict_x0,
    q_sample,
    snr,
)
from .training import (
    TrainConfig,
    Trainer,
    TrainingError,
    budget,
    ddpm_loss,
    default_device,
    ema_update,
    environment_report,
    naive_loss,
)

__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "BasicUNet",
    "CheckpointError",
    "DataError",
    "EquationError",
    "ImageData",
    "LayerNormUNet",
    "NoiseSchedule",
    "Pretrained",
    "SimpleUNet",
    "Step",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "UNet",
    "batches",
    "budget",
    "check",
    "corrupt",
    "cosine_schedule",
    "count_parameters",
    "ddim_invert",
    "ddim_step",
    "ddim_steps",
    "ddim_trajectory",
    "ddpm_loss",
    "ddpm_step",
    "ddpm_trajectory",
    "default_device",
    "ema_update",
    "environment_report",
    "forward_step",
    "image_noise",
    "linear_beta",
    "linear_schedule",
    "load_images",
    "load_pretrained",
    "naive_loss",
    "naive_step",
    "naive_trajectory",
    "per_image",
    "posterior",
    "predict_eps",
    "predict_x0",
    "q_sample",
    "read_idx",
    "sample",
    "show_solution",
    "sinusoidal_embedding",
    "slerp",
    "snr",
    "synthetic_digits",
    "to_float",
    "to_uint8",
    "verify",
]
