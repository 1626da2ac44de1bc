"""What cannot be traced and differs from element to element of a map."""

from __future__ import annotations

from typing import NoReturn

from spec2fn.typing import HostArray

__all__ = ["Label", "LabelRead"]


class LabelRead(BaseException):
    """A mapped function looks at a label, so that elements of different value part ways."""

    def __init__(self, label: Label) -> None:
        self.label = label


class Label:
    """Stands, in the trace of one element, for a value that differs from element to element."""

    __slots__ = ("identity", "values")

    def __init__(self, values: HostArray, *, identity: bool = False) -> None:
        self.values = values
        self.identity = identity  # of an index, whose values are looked up

    @property
    def of_each(self) -> list[object] | HostArray:
        """The values of the elements, as an array if they were one."""
        return self.values.tolist() if self.values.dtype == object else self.values

    def _read(self, *_: object) -> NoReturn:
        raise LabelRead(self)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise LabelRead(self)

    def __eq__(self, other: object) -> bool:
        return True if other is self else self._read()

    def __hash__(self) -> int:
        return id(self) if self.identity else self._read()

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __iter__ = _read
    __bool__ = __str__ = __int__ = __float__ = __index__ = __format__ = _read
    __len__ = __contains__ = _read
