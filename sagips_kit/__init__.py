"""sagips_kit: inverse problems solved by generative adversarial networks on many ranks.

Names are imported when they are first used, so that opening results needs neither torch nor MPI nor ipyparallel.  What
is public, and where it is defined, stands in the stub beside this file.
"""

import sys

import lazy_loader

if "IPython" in sys.modules:
    from .report import exceptions

    exceptions.install()

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]


def __getattr__(name):
    if name == "__version__":
        from importlib.metadata import version

        return version("sagips_kit")
    if name not in __all__:
        from ._text import allowed

        raise AttributeError(f"sagips_kit has no {name!r}. {allowed(name, __all__)}")
    try:
        return _load(name)
    except AttributeError as error:
        # Python would report this as "cannot import name", and hide where it comes from.
        raise ImportError(f"sagips_kit.{name} cannot be imported: {type(error).__name__}: {error}") from error
