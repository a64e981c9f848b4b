"""The error of a file of observed events."""


class EventFileError(ValueError):
    """A file of observed events that cannot be used.

    Raised when events are read: by `Observed.read`, when a run is prepared, or by a rank of a run that streams.  The
    message says what is wrong, where, and what to type.

    Parameters
    ----------
    message : str
        The text.
    path : str
        The file.
    column : str or None
        The column, if the error concerns one.
    row : int or None
        The row, counted from 0 without the header of a CSV file, if the error concerns one.

    Attributes
    ----------
    path : str
        The file.
    column : str or None
        The column, if the error concerns one.
    row : int or None
        The first row, counted from 0 without the header of a CSV file, if the error concerns one.

    See Also
    --------
    sagips_kit.Observed : The description of a file, whose `within` drops rows.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sagips_kit import Observed, Proxy
    >>> from sagips_kit.events.observed import EventFileError
    >>> _ = Path("broken.csv").write_text("x1,x2\\n0.5,0.5\\n0.5,\\n")
    >>> try:
    ...     Observed("broken.csv").read(Proxy())
    ... except EventFileError as error:
    ...     print(error.column, error.row)
    ...     print(error)
    x2 1
    `broken.csv`: column x2, row 1 (line 3), is empty, NaN or infinite. Drop such rows with
    within={'x2': (None, None)}, or in the file.
    """

    def __init__(self, message: str, path: str, column: str | None = None, row: int | None = None):
        super().__init__(message)
        self.path, self.column, self.row = path, column, row

    def __reduce__(self):
        return type(self), (str(self), self.path, self.column, self.row)
