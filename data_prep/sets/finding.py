"""Files of an archive by their names, whatever the case of their endings."""

from pathlib import Path


def by_stem(directory: Path, ending: str) -> dict[str, Path]:
    """Return the files of a directory that have an ending.

    Parameters
    ----------
    directory
        Its hidden files are passed over.
    ending
        With its dot, in small letters; ``.WAV`` and ``.Wav`` count as ``.wav``.

    Returns
    -------
    Name without ending -> file, sorted by name; of ``a.wav`` beside ``a.WAV`` the one in small
    letters.
    """
    found = [
        path
        for path in directory.iterdir()
        if path.suffix.lower() == ending and not path.name.startswith(".")
    ]
    return {path.stem: path for path in sorted(found, key=lambda path: (path.stem, path.name))}


def any_case(path: Path) -> Path:
    """Return a file whose ending may be written in another case than asked for.

    The asked path if there is none.
    """
    if path.is_file():
        return path

    for ending in (path.suffix.upper(), path.suffix.lower(), path.suffix.capitalize()):
        other = path.with_suffix(ending)
        if other.is_file():
            return other

    return path
