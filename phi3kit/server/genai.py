"""onnxruntime-genai through its C API.

Its Python binding holds Python's global lock while it computes, so a long prompt would stop the whole worker, /health
included. ctypes lets go of the lock in every call. A model and its generators belong to one thread at a time.
Source of the signatures: ort_genai_c.h of onnxruntime-genai 0.18.
"""

import ctypes
import json
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai  # finds and loads the libraries that the C API needs

_FLOAT32, _FLOAT16 = 1, 10  # OgaElementType
_OUT = POINTER(c_void_p)
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "OgaCreateConfig": (c_char_p, _OUT),
    "OgaConfigOverlay": (c_void_p, c_char_p),
    "OgaCreateModelFromConfig": (c_void_p, _OUT),
    "OgaCreateGeneratorParams": (c_void_p, _OUT),
    "OgaGeneratorParamsSetSearchNumber": (c_void_p, c_char_p, c_double),
    "OgaGeneratorParamsSetSearchBool": (c_void_p, c_char_p, c_bool),
    "OgaCreateGenerator": (c_void_p, c_void_p, _OUT),
    "OgaGenerator_AppendTokens": (c_void_p, POINTER(c_int32), c_size_t),
    "OgaGenerator_GetLogits": (c_void_p, _OUT),
    "OgaGenerator_RewindTo": (c_void_p, c_size_t),
    "OgaTensorGetType": (c_void_p, POINTER(c_int32)),
    "OgaTensorGetShapeRank": (c_void_p, POINTER(c_size_t)),
    "OgaTensorGetShape": (c_void_p, POINTER(c_int64), c_size_t),
    "OgaTensorGetData": (c_void_p, _OUT),
}
_DESTROYERS = ("Result", "Config", "Model", "GeneratorParams", "Generator", "Tensor")


class GenaiError(RuntimeError):
    """What the library says went wrong."""


def _open_library() -> Any:
    # lib….so, lib….dylib or ….dll
    (path,) = Path(onnxruntime_genai.__file__).parent.glob("*onnxruntime-genai.*")
    library = ctypes.CDLL(str(path))
    for name in _DESTROYERS:
        destroy = library[f"OgaDestroy{name}"]
        destroy.argtypes, destroy.restype = (c_void_p,), None
        setattr(library, f"OgaDestroy{name}", destroy)
    library.OgaResultGetError.argtypes, library.OgaResultGetError.restype = (c_void_p,), c_char_p

    def raise_failure(result: int | None, function: Any, arguments: Any) -> None:
        if result:
            message = library.OgaResultGetError(result).decode(errors="replace")
            library.OgaDestroyResult(result)
            raise GenaiError(message)

    for name, argtypes in _FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype, function.errcheck = argtypes, c_void_p, raise_failure
    return library


_lib = _open_library()


def _created(create: Any, *arguments: Any) -> c_void_p:
    handle = c_void_p()
    create(*arguments, ctypes.byref(handle))
    return handle


class Model:
    """A loaded graph. Lives until the process ends: the library gives little of its memory back before."""

    def __init__(self, folder: Path, overlay: dict[str, Any]) -> None:
        """folder: with genai_config.json. overlay: what to change in it. Raises GenaiError."""
        config = _created(_lib.OgaCreateConfig, str(folder).encode())
        try:
            _lib.OgaConfigOverlay(config, json.dumps(overlay).encode())
            self.handle = _created(_lib.OgaCreateModelFromConfig, config)
        finally:
            _lib.OgaDestroyConfig(config)


class Generator:
    """One sequence of tokens with the keys and values of each, room for max_length of them taken at once."""

    def __init__(self, model: Model, max_length: int) -> None:
        params = _created(_lib.OgaCreateGeneratorParams, model.handle)
        try:
            _lib.OgaGeneratorParamsSetSearchNumber(params, b"max_length", max_length)
            _lib.OgaGeneratorParamsSetSearchBool(params, b"do_sample", False)
            self._handle = _created(_lib.OgaCreateGenerator, model.handle, params)
        finally:
            _lib.OgaDestroyGeneratorParams(params)
        self._width = 0  # of the scores; read from the first ones
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def append(self, ids: Sequence[int]) -> None:
        """Compute these tokens behind the others. Raises GenaiError."""
        _lib.OgaGenerator_AppendTokens(self._handle, (c_int32 * len(ids))(*ids), len(ids))

    def rewind(self, length: int) -> None:
        """Forget all tokens behind the first `length`."""
        _lib.OgaGenerator_RewindTo(self._handle, length)

    def logits(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """The scores of every token to come next, shape (vocabulary,)."""
        tensor = _created(_lib.OgaGenerator_GetLogits, self._handle)
        try:
            if not self._width:
                self._read_shape(tensor)
            address = _created(_lib.OgaTensorGetData, tensor).value or 0
            content: Any = (ctypes.c_char * (self._width * self._dtype.itemsize)).from_address(address)
            return np.frombuffer(content, dtype=self._dtype).astype(np.float32)  # a copy: the tensor goes
        finally:
            _lib.OgaDestroyTensor(tensor)

    def close(self) -> None:
        """Give the memory back."""
        _lib.OgaDestroyGenerator(self._handle)

    def _read_shape(self, tensor: c_void_p) -> None:
        rank, kind = c_size_t(), c_int32()
        _lib.OgaTensorGetShapeRank(tensor, ctypes.byref(rank))
        shape = (c_int64 * rank.value)()
        _lib.OgaTensorGetShape(tensor, shape, rank.value)
        _lib.OgaTensorGetType(tensor, ctypes.byref(kind))
        self._dtype = np.dtype({_FLOAT32: np.float32, _FLOAT16: np.float16}[kind.value])
        self._width = int(shape[-1])
