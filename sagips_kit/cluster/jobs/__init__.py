"""Jobs of batch schedulers: one file per scheduler."""

from .base import EXAMPLES, Job, passed_environment
from .pbs import PBS
from .placement import Placement, parsed
from .slurm import Slurm
from .states import JobState, JobWatch

__all__ = ["EXAMPLES", "PBS", "Job", "JobState", "JobWatch", "Placement", "Slurm", "parsed", "passed_environment"]
