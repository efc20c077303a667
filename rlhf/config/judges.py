"""Who decides which of two answers is better: a section of its own for each kind of judge."""

from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rlhf.config.section import Count, Positive, Section


class Scored(Section):
    """A judge that scores answers one by one: the world's gold reward, the reward models that training raised, or the
    referee, a reward model that training never saw."""

    kind: Literal["gold", "reward", "referee"]


class Endpoint(Section):
    """A language model behind a server with OpenAI's chat completions. Both orders of two answers are asked."""

    kind: Literal["endpoint"]
    url: str = Field(pattern=r"^https?://[^@?#\s]+$")  # up to /v1, as http://localhost:8000/v1; no secret stands in it
    model: str = Field(min_length=1)
    key: Annotated[str, Field(pattern="^[A-Z_][A-Z0-9_]*$")] | None  # the environment variable that holds the key
    max_tokens: Count  # of a reply
    max_bytes: Count  # of a reply, expanded; a longer one is not read to its end
    timeout: Positive  # seconds that a reply may take
    retries: int = Field(ge=0)  # after 429, 5xx, or no reply
    wait: Positive  # seconds before the first retry, twice as many before each next one
    parallel: Count  # requests at a time
    missed: Count  # comparisons in a row without a reply, after which the server is asked no more
    budget: Count  # requests of one evaluation at most, retries included; what is left then has no verdict

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:  # a name
            return False

    @model_validator(mode="after")
    def _keeps_the_key_secret(self) -> "Endpoint":
        if self.key and self.url.startswith("http:") and not self.is_local:
            raise ValueError("the key would go over the network unencrypted. Give an address with https, or a null key")
        return self


class People(Section):
    """People, by `rlhf judge export` and `rlhf judge import`."""

    kind: Literal["people"]
    verdicts: str  # the file of their verdicts, relative to the workspace
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None  # of that file; `rlhf judge import` writes it


JudgeConfig = Annotated[Scored | Endpoint | People, Field(discriminator="kind")]
