"""What may be opened of a published model: JSON and safetensors, within bounds, nothing that runs code.

A pickle (`pytorch_model.bin` and its kin) runs whatever its author put in as soon as it is opened. A configuration
can do so too: by `auto_map` it names code of its own, by `attn_implementation` a compiled kernel of the hub.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ser_cli.errors import EncoderError
from ser_cli.files import path_fault, read_json_object

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"
CONFIG_NAMES = (CONFIG_NAME, PREPROCESSOR_NAME, "processor_config.json")
"""What transformers reads of an encoder or a classifier of audio besides its weights."""

FEATURE_EXTRACTOR_CLASS = "AutoFeatureExtractor"
"""What of transformers writes the preprocessing of an encoder of waveforms."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Files that run whatever code their author put in when they are opened, and that are therefore never opened."""
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

MAX_SETTING = 1_000_000
"""Of a number in a configuration; the widest published encoders have 8,192."""
MAX_LAYERS = 1_000

REFUSED_SETTINGS = {
    "auto_map": "asks for code of its own",
    "custom_pipelines": "asks for code of its own",
    "attn_implementation": "asks for a compiled kernel",
    "_attn_implementation": "asks for a compiled kernel",
    "_attn_implementation_internal": "asks for a compiled kernel",
    "experts_implementation": "asks for a compiled kernel",
    "_experts_implementation": "asks for a compiled kernel",
    "use_kernels": "asks for a compiled kernel",
    "kernel_config": "asks for a compiled kernel",
    "quantization_config": "asks for a quantised model, which is not read",
    "transformers_weights": "names its weights itself",
    "configuration_files": "names other configurations",
}
"""Keys that make transformers run, fetch or open more than JSON and safetensors."""
_HARMLESS_VALUES = (None, False, "eager", "sdpa")
"""What these keys may hold: nothing, or the ways of torch itself to compute attention."""


def begins_as_pickle(content: bytes) -> bool:
    """Whether bytes begin as a pickle, or as the zip file that torch puts one into."""
    return content.startswith(_PICKLE_STARTS)


def pickle_in(folder: Path) -> Path | None:
    """The first pickle of a folder by its name; nothing is opened."""
    return next((path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICKLE_SUFFIXES), None)


def may_be_hub_id(name: str) -> bool:
    """Whether a name that is no folder may be an id of the hub, such as `microsoft/wavlm-large`; none is asked."""
    return name.count("/") <= 1 and not name.startswith((".", "~", "/")) and not Path(name).exists()


def require_folder_or_id(subject: str, name: str, beside: str) -> None:
    """See that a name is a folder with a configuration, or may be an id of the hub; nothing is opened.

    Args:
        subject: what of a recipe has the name, for the message.
        name: hub id or folder.
        beside: the file that belongs to configuration and weights, for the message.

    Raises:
        EncoderError: there is no such folder, or no configuration in it.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / CONFIG_NAME).is_file():
        raise EncoderError(
            f"{subject} {name}: the folder holds no {CONFIG_NAME}\n"
            f"  give a folder written by save_pretrained, with {CONFIG_NAME}, {beside} and {WEIGHTS_NAME}"
        )
    if not folder.is_dir() and not may_be_hub_id(name):
        raise EncoderError(f"{subject} {name}: no such folder\n  give a folder written by save_pretrained, or a hub id")


def require_harmless_folder(name: str, beside: str = FEATURE_EXTRACTOR_CLASS) -> None:
    """See that a folder holds what may be opened, before transformers is given it.

    Args:
        name: of the folder, written by `save_pretrained`.
        beside: the class of transformers that writes what belongs to the weights, for the message.

    Raises:
        EncoderError: a pickle stands in the place of the weights, the index of the weights leads elsewhere, or a
            configuration asks for more than it may.
        ValueError: a configuration or the index is damaged.
    """
    folder = Path(name)
    for config in CONFIG_NAMES:
        if _is_there(folder / config):
            require_harmless_config(f"{folder / config}", read_config(folder / config))
    if _is_there(folder / WEIGHTS_NAME):
        require_no_pickle(folder / WEIGHTS_NAME)
        return
    if _is_there(folder / INDEX_NAME):
        for shard in require_harmless_index(folder / INDEX_NAME):
            require_no_pickle(folder / shard)
        return
    if pickle := pickle_in(folder):
        raise EncoderError(
            f"{pickle} is a pickle, which runs whatever code its author put in; it was not opened\n"
            f"  expected weights as safetensors ({WEIGHTS_NAME}): ask for them, or where you trust its author\n"
            f"  {how_to_convert(name, beside)}"
        )


def require_harmless_on_hub(name: str) -> None:
    """See, as `require_harmless_folder` does, what a repository of the hub holds; brings its files to the cache.

    Raises:
        EncoderError: its weights are a pickle alone, or a file of it asks for more than it may.
        OSError: the hub has no such repository, or cannot be reached.
        ValueError: a configuration or the index is damaged.
    """
    for file in CONFIG_NAMES:
        if config := file_on_hub(name, file):
            require_harmless_config(f"{name}/{file}", read_config(config))
    if weights := file_on_hub(name, WEIGHTS_NAME):
        require_no_pickle(weights)
    elif index := file_on_hub(name, INDEX_NAME):
        require_harmless_index(index)


def refuse_pickle_on_hub(name: str, beside: str = FEATURE_EXTRACTOR_CLASS) -> None:
    """Say of a repository without safetensors that it has a pickle, which was not opened.

    Args:
        name: of the repository.
        beside: the class of transformers that writes what belongs to the weights, for the message.

    Raises:
        EncoderError: it has one.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    file = "pytorch_model.bin"
    try:
        there = isinstance(try_to_load_from_cache(name, file), str) or HfApi().file_exists(name, file)
    except Exception:  # the hub's client lets errors of its HTTP library through, which changes
        there = False
    if there:
        raise EncoderError(
            f"encoder {name}: its weights are published as a pickle alone ({file}), which runs whatever code its author"
            f" put in; it was not opened\n"
            f"  expected weights as safetensors: choose another encoder, or where you trust its author\n"
            f"  {how_to_convert(name, beside)}"
        )


def file_on_hub(name: str, file: str) -> Path | None:
    """A file of a repository in the local cache, brought there where it can be; None where there is none."""
    from transformers.utils import cached_file

    found = cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return Path(found) if found else None


def require_no_pickle(path: Path) -> None:
    """See by its first bytes that weights are no pickle under another name.

    Raises:
        EncoderError: they are, or are no plain file.
    """
    if not path.is_file():
        raise EncoderError(f"{path}: these weights are missing or no plain file\n  copy the whole folder again")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise EncoderError(
            f"{path}: cannot be read ({error.strerror or error})\n  copy the whole folder again"
        ) from None
    if begins_as_pickle(start):
        raise EncoderError(
            f"{path} is a pickle by its first bytes, whatever its name says, and would run code; it was not loaded\n"
            f"  expected weights as safetensors: ask for them, or choose another encoder"
        )


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a published model.

    Raises:
        ValueError: it cannot be read, is damaged, too large or nested too deeply; names the file.
    """
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: {getattr(error, 'strerror', None) or error}") from None


def require_harmless_index(path: Path) -> list[str]:
    """The shards that the index of the weights names, each a safetensors file beside it.

    Raises:
        EncoderError: it names something else.
        ValueError: it is damaged.
    """
    told = read_config(path).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(shard, str) for shard in told.values()):
        raise EncoderError(f"{path}: names no weights (weight_map)\n  copy or download it again")
    shards = sorted(set(told.values()))
    for shard in shards:
        fault = path_fault(shard) or ("" if "/" not in shard else "leads out of the folder")
        if not fault and not shard.endswith(".safetensors"):
            fault = "is no safetensors file; a pickle runs whatever code its author put in"
        if fault:
            raise EncoderError(
                f"{path}: the weights {shard!r} that it names are not opened: the name {fault}\n"
                f"  expected names such as model-00001-of-00002.safetensors, beside the index"
            )
    return shards


def require_harmless_config(what: str, config: Mapping[str, Any]) -> None:
    """See that a configuration asks for nothing but a model of the library, of a size that can be.

    Raises:
        EncoderError: it does.
    """
    for key, value in _settings(config):
        if key in REFUSED_SETTINGS and not any(value is harmless or value == harmless for harmless in _HARMLESS_VALUES):
            raise EncoderError(
                f"{what}: {key} {REFUSED_SETTINGS[key]}; ser runs and opens nothing of the kind\n"
                f"  choose an encoder that transformers knows by itself, or remove {key} where you made it"
            )
        most = MAX_LAYERS if "layers" in key else MAX_SETTING
        if isinstance(value, int | float) and abs(value) > most:
            raise EncoderError(f"{what}: {key} is {value:.6g}, at most {most:,} is taken\n  copy or download it again")


def how_to_convert(name: str, beside: str) -> str:
    """One line of Python that makes a folder of safetensors, for a person who trusts the pickle's author."""
    return (
        f"convert it, in Python: import transformers as t; "
        f"[c.from_pretrained({name!r}).save_pretrained('DIR') for c in (t.AutoModel, t.{beside})];"
        f" then give DIR"
    )


def _settings(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """All values of a configuration with the keys that they stand under; its depth was bounded by its reader."""
    yield key, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _settings(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _settings(inner, key)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def ask_hub_for(name: str) -> None:
    """Ask the hub once whether it has a model that is not in the local cache.

    `from_pretrained` by itself tries for half a minute where there is no network.

    Raises:
        Exception: it has not, or cannot be reached; of many kinds, since its client lets errors of its HTTP library
            through, which changes.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        HfApi().model_info(name, timeout=10)
