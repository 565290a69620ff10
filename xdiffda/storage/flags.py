"""Words in zarr stores: codes with the words in the attributes, as CF flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int

ABSENT = "absent"  # code 0, which zarr gives to what was never written


def with_flags(ds: xr.Dataset) -> xr.Dataset:
    """String labels as CF flags: zarr has no settled type for strings yet."""
    for name, coord in ds.coords.items():
        if coord.dtype.kind in "US":
            words, codes = [str(w) for w in coord.values], np.arange(coord.size, dtype=np.int8)
            attrs = {"flag_values": codes.tolist(), "flag_meanings": " ".join(words)}
            ds = ds.assign_coords({name: (coord.dims, codes, attrs)})
    return ds


def with_labels(ds: xr.Dataset) -> xr.Dataset:
    """Readable labels of coordinates that `with_flags` wrote."""
    for name, coord in ds.coords.items():
        if "flag_meanings" in coord.attrs:
            ds = ds.assign_coords({name: (coord.dims, coord.attrs["flag_meanings"].split())})
    return ds


def known_words(attrs: Any) -> list[str]:
    """The words of a variable, by code."""
    return str(attrs.get("flag_meanings", ABSENT)).split()


def encode_words(
    values: np.ndarray, known: Sequence[str]
) -> tuple[Int[np.ndarray, "..."], dict[str, Any]]:
    """Codes of words, and the attributes that say their meaning.

    Words that are not known yet get the next codes, so that those written before stay valid.

    Examples
    --------
    >>> codes, attrs = encode_words(np.array(["v", "t", ""]), ["absent", "t"])
    >>> codes.tolist(), attrs["flag_meanings"]
    ([2, 1, 0], 'absent t v')
    """
    distinct, where = np.unique(values.astype(str), return_inverse=True)
    plain = ["_".join(word.split()) or ABSENT for word in distinct]
    words = list(dict.fromkeys([*known, *plain]))
    codes = np.array([words.index(word) for word in plain], np.int32)[where]
    attrs = {"flag_values": list(range(len(words))), "flag_meanings": " ".join(words)}
    return codes.reshape(values.shape), attrs


def encode_variables(ds: xr.Dataset) -> xr.Dataset:
    """Variables of words as codes."""
    for name, variable in ds.data_vars.items():
        if variable.dtype.kind == "U":
            codes, attrs = encode_words(variable.values, known_words(variable.attrs))
            ds = ds.assign({name: (variable.dims, codes, {**variable.attrs, **attrs})})
    return ds


def codes_for(array: Any, values: np.ndarray) -> Int[np.ndarray, "..."]:
    """Return the codes of words in a zarr array, adding new words to the array's attributes."""
    codes, attrs = encode_words(values, known_words(array.attrs))
    if attrs["flag_meanings"] != array.attrs["flag_meanings"]:
        array.update_attributes(attrs)
    return codes


def decode_words(codes: xr.DataArray) -> np.ndarray:
    """The words behind codes; empty where there is none."""
    words = np.array(["", *known_words(codes.attrs)[1:]])
    return words[codes.values]
