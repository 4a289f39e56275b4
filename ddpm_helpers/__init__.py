"""The small helper module behind the course's notebooks. Its core is seven files, to be read in this order:

schedule, nets, sampling, losses, train, files, data. What two or more notebooks use is gathered here; what one lesson
uses comes from `ddpm_helpers.lessons`. `from ddpm_helpers import viz` loads the plotting part, and matplotlib with it.
"""

from .data import DataError, ImageData, batches, load_images, read_idx, to_float, to_uint8
from .digits import synthetic_digits
from .files import CheckpointError
from .lessons.diagnosis import IdealDenoiser, diagnose
from .lessons.naive import corrupt, naive_loss, naive_step, naive_trajectory
from .lessons.published import BasicUNet, LayerNormUNet
from .losses import (
    ddpm_loss,
    drop_labels,
    ema_update,
    min_snr_loss,
    random_flip,
    share_of_batch,
    step_weight,
    stratified_steps,
    velocity_loss,
    weighted_steps,
)
from .machine import budget, default_device, environment_report
from .marking import AnswerError, EquationError, check, show_solution, verify
from .metrics import (
    bits_per_dim,
    evaluate,
    frechet_distance,
    frechet_floor,
    load_feature_net,
    nearest_images,
    prior_bits,
)
from .nets import (
    SimpleUNet,
    UNet,
    VelocityNet,
    append_time,
    attention,
    count_parameters,
    down_and_up,
    film,
    group_norm,
    multiply_adds,
    residual_block,
    sinusoidal_embedding,
)
from .pretrained import Pretrained, load_pretrained
from .sampling import (
    Step,
    ddim_invert,
    ddim_step,
    ddim_steps,
    ddim_trajectory,
    ddpm_step,
    ddpm_trajectory,
    guide,
    guided_eps,
    image_noise,
    sample,
    slerp,
)
from .schedule import (
    NoiseSchedule,
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
from .train import TrainConfig, Trainer, TrainingError

__version__ = "0.2.0"
