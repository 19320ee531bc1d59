"""privface: hide gender in face images while face matching keeps working, and measure honestly whether it does.

Rooms: ``data``, ``faces``, ``models``, ``losses``, ``training``, ``protect``, ``audit``, ``report``, ``pipeline``, ``app``, ``cli``.
Importing the package does no work; each room loads its own libraries.
"""

from importlib.metadata import version

__version__ = version("privface")
__all__ = ["__version__"]
