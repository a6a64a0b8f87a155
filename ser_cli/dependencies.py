"""Whether the installed packages work together, said in a sentence where they do not."""

from importlib import metadata

from ser_cli.errors import DependencyError

TORCHAUDIO_PARTNERS = ("2.11", "2.12", "2.14")
"""Releases of torch whose CUDA 13.0 libraries torchaudio 2.11 loads."""


def require_working_torch() -> None:
    """Import torch and torchaudio once, before anything else does.

    A torchaudio that cannot be imported takes the speech encoders of transformers down with it, with a
    message that names neither.

    Raises:
        DependencyError: they are missing or do not fit each other.
    """
    try:
        import torch  # noqa: F401
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        found = ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchaudio"))
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DependencyError(
            f"torch and torchaudio do not work together: {first_line}\n"
            f"  found: {found}\n"
            f"  torchaudio 2.11 needs torch {', '.join(TORCHAUDIO_PARTNERS)} with its CUDA 13.0 libraries, also where"
            f" there is no GPU\n"
            f'  install a set that fits: pip install "torch>=2.11,<2.15,!=2.13.*" "torchaudio>=2.11,<2.12"'
        ) from error


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
