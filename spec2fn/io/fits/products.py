"""Products in the FITS layout of the JWST pipeline: whole, or chunk by chunk.

The layout is that of the JWST data products documentation
(https://jwst-docs.stsci.edu/ and the data-model schemas of stdatamodels).
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from spec2fn.errors import DatasetError, InputError
from spec2fn.io.atomic import PendingFile, unwritable
from spec2fn.io.fits.asdf_wcs import asdf_bytes
from spec2fn.io.fits.extents import Extent
from spec2fn.io.fits.headers import encode_header, primary_cards
from spec2fn.io.fits.layout import extents, tail
from spec2fn.io.fits.model_layout import holds_models
from spec2fn.io.fits.slit_layout import ordered_wcs, single_slit, slit_extents
from spec2fn.parameters import user_path
from spec2fn.schema import meta_of
from spec2fn.slits import Slits
from spec2fn.threads import in_threads

if TYPE_CHECKING:
    import xarray as xr


__all__ = ["ProductStream", "save", "write_product"]

# Size from which extensions are converted and written side by side [bytes].
_LARGE = 4 * 2**20


class ProductStream:
    """Write a product chunk of integrations by chunk, in memory that does not grow with them.

    Use it as a context manager: the file appears under its name when the block ends without an
    exception, and not at all otherwise.

    Parameters
    ----------
    path : path
        Final name of the FITS file.
    template : xarray.Dataset or Slits
        Any chunk of the product (or the whole): gives shapes, metadata and headers.
    n_integrations : int, optional
        Number of integrations of the whole product; of the template if not given.

    Raises
    ------
    DatasetError
        If the template is not a product.
    InputError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        template: xr.Dataset | Slits,
        n_integrations: int | None = None,
    ) -> None:
        self.path = user_path(path)
        whole = single_slit(template)
        template = whole.buckets[0] if isinstance(whole, Slits) else whole
        first = next((n for n in ("sci", "flux") if n in template), holds_models(template))
        if not first:
            held = ", ".join(sorted(map(str, template.data_vars))) or "nothing"
            msg = f"{self.path}: the Dataset holds {held}; a product needs 'sci' or 'flux'"
            raise DatasetError(msg)
        data = template.variables[first]
        self._many = "integration" in data.dims
        if self._many and n_integrations is None:
            n_integrations = int(template.sizes["integration"])
        self.integrations = n_integrations if self._many else None
        self._slits = whole if isinstance(whole, Slits) else None
        primary = encode_header(primary_cards(template, self.path.name))
        self._extents = [
            Extent(primary, 0, 1, False, lambda _ds, _rows: np.empty(0, ">u1")),
            *(
                extents(template, self.integrations)
                if self._slits is None
                else slit_extents(self._slits, self.integrations)
            ),
        ]
        # not the template itself: pixels of other pieces must not wait for the end
        self._model, self._meta = str(template.attrs.get("model", "ImageModel")), meta_of(template)
        self._done = 0
        self._started = False
        self._file = PendingFile(self.path)
        self._finalizer = weakref.finalize(self, PendingFile.discard, self._file)
        self._end = 0
        with self._aborting():
            for extent in self._extents:
                self._file.write(extent.header, self._end)
                self._end += extent.size
            os.ftruncate(self._file.fd, self._end)

    def append(self, chunk: xr.Dataset | Slits) -> None:
        """Write the next integrations.

        Parameters
        ----------
        chunk : xarray.Dataset or Slits
            Like the template, with any number of integrations.

        Raises
        ------
        DatasetError
            If there are more integrations than announced.
        InputError
            If the disk is full or the file cannot be written; the file is then gone.
        """
        with self._aborting():
            chunk = single_slit(chunk)
            sizes = chunk.buckets[0].sizes if isinstance(chunk, Slits) else chunk.sizes
            count = int(sizes["integration"]) if self._many else 1
            self._check(self._done + count, complete=False)
            if self._many and not isinstance(chunk, Slits):
                chunk = chunk.assign_attrs(_first_integration=self._done)
            self._write(chunk, count)
        self._done += count

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        """Remove the file on any exception, KeyboardInterrupt included."""
        try:
            yield
        except OSError as err:
            self.abort()
            raise unwritable(self.path, err) from err
        except BaseException:
            self.abort()
            raise

    def _check(self, done: int, *, complete: bool) -> None:
        total = self.integrations if self.integrations is not None else 1
        if done > total or (complete and done != total):
            what = "integration(s)" if self._many else "image(s)"
            msg = f"{self.path}: {done} {what} were given, {total} announced; they must agree"
            raise DatasetError(msg)

    def _write(self, chunk: xr.Dataset | Slits, count: int) -> None:
        at = 0
        small: list[tuple[Extent, int]] = []
        large: list[tuple[Extent, int]] = []
        for extent in self._extents:
            start = at + len(extent.header)
            at += extent.size
            if extent.streamed:
                start += self._done * extent.row
            elif self._started:
                continue
            (large if extent.size > _LARGE else small).append((extent, start))

        def put(job: tuple[Extent, int]) -> None:
            extent, start = job
            for piece in extent.pieces(chunk, count):
                self._file.write(piece.reshape(-1).view(np.uint8).data, start)
                start += piece.nbytes

        for job in small:
            put(job)
        in_threads(put, large)
        self._started = True

    def close(self, record: object = None) -> None:
        """Finish the file and give it its name.

        Parameters
        ----------
        record : optional
            Run record, JSON-able; by default ``meta.records["run"]`` of the template.

        Raises
        ------
        DatasetError
            If integrations are missing.
        InputError
            If the file cannot be written.
        """
        with self._aborting():
            self._check(self._done, complete=True)
            wcs = self._meta.wcs if self._slits is None else ordered_wcs(self._slits)
            with self._file.flushing():
                content = asdf_bytes(self._model, wcs)
            said = self._meta.records.get("run") if record is None else record
            self._file.write(tail(said, content), self._end)
            self._file.commit()
        self._finalizer.detach()

    def abort(self) -> None:
        """Remove what has been written."""
        self._finalizer.detach()
        self._file.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
        elif self._file.open:
            self.close()


def write_product(ds: xr.Dataset | Slits, path: str | os.PathLike[str]) -> Path:
    """Write a product as FITS.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
        An exposure, a resampled image or extracted spectra, or the slits of an exposure, which are
        written without the padding of their buckets; see ``docs/dataset.md``.
        ``attrs["model"]`` names its JWST data model; ``meta.records`` holds what else goes into
        the headers: ``references`` (name by reference type), ``crds_context``, ``crds_version``,
        ``asn_pool``, ``asn_table``, and ``run``, the run record.
    path : path

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    DatasetError
        If `ds` holds neither ``sci`` nor ``flux``, or no slit.
    InputError
        If the file cannot be written; nothing is left under its name then.

    Notes
    -----
    The same Dataset gives the same bytes. The file is written under a temporary name in the same
    folder and renamed when it is complete.
    """
    with ProductStream(path, ds) as stream:
        stream.append(ds)
    return stream.path


def save(ds: xr.Dataset | Slits, path: str | os.PathLike[str]) -> Path:
    """Write a product, as FITS or netCDF by the suffix of `path`.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
    path : path
        Ends in ``.fits`` or ``.nc``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        For another suffix, or if the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".fits":
        return write_product(ds, path)
    if suffix in (".nc", ".nc4"):
        from spec2fn.io.netcdf import write_netcdf

        return write_netcdf(ds, path)
    raise InputError(f"{path}: the suffix {suffix!r} is neither .fits nor .nc; give one of them")
