"""ChatML: the prompt format of every base model that is built or converted here."""

from __future__ import annotations

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
"""Special tokens: start of a turn, end of a turn, padding."""

TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{START}' + message['role'] + '\n' + message['content'] + '{END}\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\n' }}}}{{% endif %}}"
)
"""Every turn ends with `END` and a newline; no message is added that was not given."""
