"""Jobs of batch schedulers: one file for each scheduler."""

from .base import EXAMPLES, Job, JobState, JobWatch, Ranks, parsed, passed_environment
from .pbs import PBS
from .slurm import Slurm

__all__ = ["EXAMPLES", "PBS", "Job", "JobState", "JobWatch", "Ranks", "Slurm", "parsed", "passed_environment"]
