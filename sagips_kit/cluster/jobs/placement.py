"""How ranks are started: the command, and on how many nodes."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, get_type_hints

import pydantic
from pydantic import Field

from ..._value import Count, ValueClass, value

Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]  # without control characters, such as ends of lines
Text = Line | None
Number = Annotated[int, Field(ge=0)]


@value
class Placement(metaclass=ValueClass):
    """Ranks on nodes: the command that starts them, and how many ranks, cores and threads each node carries.

    Used as it is on nodes that have been allocated already, and by `PBS` and `Slurm` for the nodes of a job.

    Parameters
    ----------
    mpiexec : str
        Command that starts all ranks.  The placeholders {n} (ranks), {nodes}, {ranks_per_node} and {cores_per_rank} are
        replaced by numbers.
    ranks_per_node : int
        Ranks on each node; 0 puts all ranks on one node.
    cores_per_rank : int
        Cores for each rank.
    threads : int
        Threads of each rank (OMP_NUM_THREADS).
    affinity : str
        Shell commands that each rank executes before MPI starts, for instance to choose its GPU.
    interface : str
        Network interface by which the engines reach the controller, such as "hsn0".  If the machine has no interface of
        this name, the controller listens on all of them and is found by the host's name.
    device : {"", "cpu", "cuda", "xpu", "mps"}
        Type of device on which ranks train (SAGIPS_DEVICE); empty takes an accelerator if there is one.

    Raises
    ------
    ValueError
        For an unknown option, or a value of the wrong type or out of range.

    See Also
    --------
    sagips_kit.cluster.jobs.PBS, sagips_kit.cluster.jobs.Slurm : Jobs of a batch scheduler.
    sagips_kit.show_profile : Print what starts the engines of a profile.

    Examples
    --------
    Sixteen ranks, four per node, each with eight cores:

    >>> from sagips_kit.cluster.jobs import Placement
    >>> placement = Placement(
    ...     mpiexec="mpiexec -n {n} --ppn {ranks_per_node} --depth={cores_per_rank}", ranks_per_node=4, cores_per_rank=8
    ... )
    >>> placement.sizes(16)
    {'n': 16, 'nodes': 4, 'ranks_per_node': 4, 'cores_per_rank': 8}
    >>> placement.command(16, ["python", "train.py"])
    'mpiexec -n 16 --ppn 4 --depth=8 python train.py'
    """

    mpiexec: Line = "mpiexec -n {n}"
    ranks_per_node: Number = 0
    cores_per_rank: Count = 1
    threads: Count = 1
    affinity: Line = ""
    interface: Line = ""
    device: Literal["", "cpu", "cuda", "xpu", "mps"] = ""

    @property
    def variables(self) -> dict[str, str]:
        """dict of str to str: Environment variables of all ranks."""
        return {"OMP_NUM_THREADS": str(self.threads)} | ({"SAGIPS_DEVICE": self.device} if self.device else {})

    def missing(self) -> list[str]:
        """Names of mandatory options that have not been given yet.

        Returns
        -------
        list of str
            In the order of the fields; empty if the options are complete.
        """
        return [field.name for field in fields(self) if getattr(self, field.name) is None]

    def sizes(self, n: int) -> dict[str, int]:
        """The numbers that replace the placeholders of the options.

        Parameters
        ----------
        n : int
            Number of ranks.

        Returns
        -------
        dict of str to int
            With the keys n, nodes, ranks_per_node and cores_per_rank.
        """
        per_node = min(self.ranks_per_node or n, n)
        nodes = math.ceil(n / per_node)
        return {"n": n, "nodes": nodes, "ranks_per_node": per_node, "cores_per_rank": self.cores_per_rank}

    def command(self, n: int, program: Sequence[str]) -> str:
        """The shell command that starts a program on all ranks.

        Parameters
        ----------
        n : int
            Number of ranks.
        program : list of str
            The program and its arguments; they are quoted for the shell.

        Returns
        -------
        str
            One line for a POSIX shell.

        Raises
        ------
        ValueError
            If `mpiexec` has an unknown placeholder.
        """
        wrapper = ["bash", "-c", f'{self.affinity}; exec "$0" "$@"'] if self.affinity else []
        return f"{self.filled('mpiexec', n)} {shlex.join([*wrapper, *program])}"

    def filled(self, name: str, n: int) -> str:
        """The text of an option, with numbers in place of its placeholders.

        Parameters
        ----------
        name : str
            Name of the option.
        n : int
            Number of ranks.

        Returns
        -------
        str
            The option's text.

        Raises
        ------
        ValueError
            If the text has an unknown placeholder.
        """
        text, sizes = getattr(self, name), self.sizes(n)
        try:
            return text.format(**sizes)
        except (KeyError, IndexError, ValueError):
            allowed = ", ".join(f"{{{size}}}" for size in sizes)
            raise ValueError(f"{name} = {text!r}: may contain {allowed}; write other braces twice.") from None


def parsed(kind: type[Placement], name: str, given: Any) -> Any:
    """An option that was given as text on a command line, converted to the type that it has in `kind`."""
    if not isinstance(given, str) or name not in {field.name for field in fields(kind)}:
        return given
    hint = get_type_hints(kind, include_extras=True)[name]
    try:
        return pydantic.TypeAdapter(hint).validate_python(given, strict=False)
    except pydantic.ValidationError:
        return given  # the constructor's message explains what is wrong
