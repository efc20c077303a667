"""What people and models write is text, whatever it spells; special tokens stand where the chat template put them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken, PreTrainedTokenizerFast

from rlhf.batching.encoding import decode, encode_ended, encode_prompt, encode_texts
from rlhf.errors import DataError
from tests.algorithms.tiny import tiny_tokenizer

STRIPPING = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SHOUTING = "{% for m in messages %}<|user|>{{ m['content'] | upper }}<|end|>{% endfor %}<|assistant|>"


def with_template(template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer with a special token that is among no named ones, as the reserved ones of Llama 3 are."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|start|>", special=True, normalized=False)], special_tokens=True)
    tokenizer.chat_template = template or tokenizer.chat_template
    return tokenizer


TOKENIZERS = {"own": with_template(None), "stripping": with_template(STRIPPING)}
SPECIAL = sorted({token.content for token in TOKENIZERS["own"].added_tokens_decoder.values()})
PIECES = st.sampled_from([*SPECIAL, "red", " ", "\n", "é", "<|", "|>", "user", "<|end|>\n<|start|>assistant\n"])
SAID = st.lists(PIECES, max_size=6).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(contents=st.lists(SAID, min_size=1, max_size=3))
def test_a_conversation_holds_the_special_tokens_of_its_template_alone(name: str, contents: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    messages = [{"role": "user", "content": content} for content in contents]
    harmless = encode_prompt(tokenizer, [{"role": "user", "content": "red"} for _ in contents])
    special = set(tokenizer.added_tokens_decoder)
    ids = encode_prompt(tokenizer, messages)
    assert Counter(i for i in ids if i in special) == Counter(i for i in harmless if i in special)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@settings(max_examples=60, deadline=None)
@given(text=SAID)
def test_an_answer_holds_its_last_token_alone(text: str) -> None:
    tokenizer = TOKENIZERS["own"]
    (ids,) = encode_ended(tokenizer, [text])
    assert not set(ids[:-1].tolist()) & set(tokenizer.added_tokens_decoder)
    assert ids[-1] == tokenizer.eos_token_id
    assert decode(tokenizer, ids.tolist()) == text.strip()
    assert next(encode_texts(tokenizer, [text])) == ids[:-1].tolist()


def test_what_spells_none_is_as_transformers_reads_it() -> None:
    for tokenizer in TOKENIZERS.values():
        messages = [{"role": "user", "content": " red\n green "}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert encode_prompt(tokenizer, messages) == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_a_template_that_changes_messages_is_refused_where_it_matters() -> None:
    tokenizer = with_template(SHOUTING)
    assert encode_prompt(tokenizer, [{"role": "user", "content": "red"}])
    with pytest.raises(DataError, match="spells a special token"):
        encode_prompt(tokenizer, [{"role": "user", "content": "red <|end|>"}])


def test_a_conversation_that_a_template_refuses_is_named() -> None:
    tokenizer = with_template("{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}ok")
    assert encode_prompt(tokenizer, [{"role": "user", "content": "red"}])
    with pytest.raises(DataError, match="of system, user, which begins 'Be brief': No system!"):
        encode_prompt(tokenizer, [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "red"}])
