"""Jobs of batch schedulers: one file per scheduler."""

from .base import EXAMPLES, Job, JobState, JobWatch, Placement, parsed, passed_environment
from .pbs import PBS
from .slurm import Slurm

__all__ = ["EXAMPLES", "PBS", "Job", "JobState", "JobWatch", "Placement", "Slurm", "parsed", "passed_environment"]
