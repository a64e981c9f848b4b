"""Jobs of batch schedulers: one file per scheduler."""

from .base import EXAMPLES, Job, Placement, parsed, passed_environment
from .pbs import PBS
from .slurm import Slurm
from .states import JobState, JobWatch

__all__ = ["EXAMPLES", "PBS", "Job", "JobState", "JobWatch", "Placement", "Slurm", "parsed", "passed_environment"]
