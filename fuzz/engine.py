"""Run libFuzzer (atheris) on one target: `python -m fuzz.engine TARGET [ARGUMENTS]`; `python -m fuzz` starts it."""

import random
import sys

import atheris

with atheris.instrument_imports(include=["emotion"]):
    from fuzz import mutators
    from fuzz.targets import check


def mutated_file(data: bytes, max_size: int, seed: int) -> bytes:
    """Return a mutated audio file; half of the mutations use the structure of containers.

    Args:
        data: the file to mutate.
        max_size: largest size of the result in bytes.
        seed: seed of the random mutation.
    """
    chance = random.Random(seed)
    if data and chance.random() < 0.5:
        data = chance.choice((mutators.odd_field, mutators.moved))(data, chance)
    if not data or chance.random() < 0.6:
        data = bytes(atheris.Mutate(data, max_size))
    if b"OggS" in data and chance.random() < 0.9:
        data = mutators.with_ogg_checksums(data)
    return data[:max_size]


def mutated_text(data: bytes, max_size: int, seed: int) -> bytes:
    """Return a mutated text; 90 % of the mutations keep it valid UTF-8.

    Args:
        data: the text to mutate.
        max_size: largest size of the result in bytes.
        seed: seed of the random mutation.
    """
    chance = random.Random(seed)
    if chance.random() < 0.9:
        return mutators.edited_text(data, chance)[:max_size]
    return bytes(atheris.Mutate(data, max_size))


def main() -> None:
    """Fuzz until a limit in libFuzzer's arguments is reached, or until an input fails, which ends the process."""
    target = sys.argv.pop(1)
    sys.argv[0] = f"{sys.executable} -m fuzz.engine {target}"  # libFuzzer restarts itself with this command in a merge
    mutator = mutated_text if target == "text" else mutated_file
    atheris.Setup(sys.argv, lambda data: check(target, data), custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
