"""Chat templates are rendered as transformers renders them, and cannot get out of their sandbox."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from webapp.chat_template import ChatTemplate, special_tokens
from webapp.errors import PromptError

_CHATML = """
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- bos_token + '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
_BLOCKS = """
{% for message in messages %}
  {% if message.role == 'user' %}
U: {{ message.content | tojson }}
  {% elif message.role == 'assistant' %}
    {% generation %}A: {{ message.content }}{% endgeneration %}

  {% else %}
    {% continue %}
  {% endif %}
{% endfor %}
{% set ns = namespace(count=0) %}{% for m in messages %}{% set ns.count = ns.count + 1 %}{% endfor %}{{ ns.count }}
"""
_MESSAGES = [
    {"role": "system", "content": 'Be <b>brief</b> & "kind".'},
    {"role": "user", "content": "  hello é 漢  "},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "bye"},
]


@pytest.mark.parametrize("source", [_CHATML, _BLOCKS])
def test_a_template_renders_as_in_transformers(source: str) -> None:
    (expected,), _ = render_jinja_template(
        [_MESSAGES], chat_template=source, add_generation_prompt=True, bos_token="<s>"
    )
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(_MESSAGES) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.nothing() }}",
        "{{ 1 / 'a' }}",
        "{{ ''.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 1 / 0 }}",
        "{{ '{0}'.format() }}",
        "{{ messages[0].content|truncate(-1) }}",
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_an_error_of_the_request(source: str) -> None:
    with pytest.raises(PromptError):
        ChatTemplate(source, {}).render(_MESSAGES)


def test_a_template_that_leaves_a_loop_where_none_is_is_refused() -> None:
    with pytest.raises(PromptError, match="broken"):
        ChatTemplate("{% break %}", {})


def test_a_text_that_is_no_template_is_refused() -> None:
    with pytest.raises(PromptError, match="broken"):
        ChatTemplate("{% if %}", {})


def test_special_tokens_are_read_in_both_forms() -> None:
    config = '{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null}'
    assert special_tokens(config) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert special_tokens(None) == {}
