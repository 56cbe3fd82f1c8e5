"""libFuzzer (atheris) on one target, as `python -m fuzz` runs it: `python -m fuzz.engine TARGET [ARGUMENTS]`."""

import random
import sys

import atheris

with atheris.instrument_imports(include=["emotion"]):
    from fuzz import mutators
    from fuzz.targets import check


def mutated_file(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's next input from one that it knows: one time in two with an edit that knows containers."""
    chance = random.Random(seed)
    if data and chance.random() < 0.5:
        data = chance.choice((mutators.odd_field, mutators.moved))(data, chance)
    if not data or chance.random() < 0.6:
        data = bytes(atheris.Mutate(data, max_size))
    if b"OggS" in data and chance.random() < 0.9:
        data = mutators.with_ogg_checksums(data)
    return data[:max_size]


def mutated_text(data: bytes, max_size: int, seed: int) -> bytes:
    """The same for a text: mostly with edits that leave it one."""
    chance = random.Random(seed)
    if chance.random() < 0.9:
        return mutators.edited_text(data, chance)[:max_size]
    return bytes(atheris.Mutate(data, max_size))


def main() -> None:
    """Fuzz until libFuzzer's arguments say stop; what breaks a promise ends the process."""
    target = sys.argv.pop(1)
    sys.argv[0] = f"{sys.executable} -m fuzz.engine {target}"  # how libFuzzer starts itself anew in a merge
    mutator = mutated_text if target == "text" else mutated_file
    atheris.Setup(sys.argv, lambda data: check(target, data), custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
