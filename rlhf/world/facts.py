"""What is true in the world: the value of every attribute of every person, town and book. It is the same for every
seed: a seed decides who asks, says and prefers what."""

from random import Random

from rlhf.world.lexicon import ATTRIBUTES, ENTITIES, PREDICATES, VALUES, WOMEN

KIND = {name: kind for kind, names in ENTITIES.items() for name in names}


def _dealt(attribute: str, names: tuple[str, ...]) -> list[str]:
    """A value for each name: shuffled, every value about equally often, so that no value is a good guess."""
    values = VALUES[attribute] * (len(names) // len(VALUES[attribute]) + 1)
    return Random(attribute).sample(values[: max(len(names), len(VALUES[attribute]))], len(names))


def _facts() -> dict[str, dict[str, str]]:
    facts: dict[str, dict[str, str]] = {name: {} for name in KIND}
    for kind, names in ENTITIES.items():
        for attribute in ATTRIBUTES[kind]:
            for name, value in zip(names, _dealt(attribute, names), strict=True):
                facts[name][attribute] = value
    return facts


FACTS = _facts()  # entity -> attribute -> value


def another_value(rng: Random, entity: str, attribute: str) -> str:
    """A value that `attribute` of `entity` does not have."""
    return rng.choice([value for value in VALUES[attribute] if value != FACTS[entity][attribute]])


def pronoun(entity: str) -> str:
    """What a second sentence about the entity opens with."""
    return "It" if KIND[entity] != "person" else "She" if entity in WOMEN else "He"


def statement(rng: Random, entity: str, values: dict[str, str]) -> str:
    """The entity and one to three of its values as one or two sentences."""
    said = [rng.choice(PREDICATES[attribute]).format(value) for attribute, value in values.items()]
    first = 1 if len(said) == 1 or (len(said) == 2 and rng.random() < 0.3) else 2
    text = f"{entity} {' and '.join(said[:first])}."
    return f"{text} {pronoun(entity)} {' and '.join(said[first:])}." if said[first:] else text
