"""The base of profile ``tiny``: tokenizer, initial weights and training of a small model."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from persona_lib.corpora.dialogues import Dialogue
from persona_lib.device import determinism
from persona_lib.digests import derive_seed
from persona_lib.errors import DataError
from persona_lib.models.batches import cross_entropy, pad_rows
from persona_lib.models.family import QWEN2, Family
from persona_lib.progress import Progress, silent
from persona_lib.specs.sources import TinyBase
from persona_lib.store.cost import spent

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

IGNORED = -100
"""Label of a token without loss."""

_GROUPED_BATCHES = 50  # batches of similar length are formed within this many
_WARMUP = 0.05
_ADAM_BETA2 = 0.98
_INITIAL_DEVIATION = 0.08  # about 1 / sqrt(width): 0.02, made for wide models, learns slower
_SEED_LIMIT = 2**32  # numpy's bound, which the trainer passes on
_TOKENIZER_DIALOGUES, _TOKENIZER_TEXTS = 4000, 800
_LAST_STEPS = 50  # the reported loss is the mean over this many


def build_tiny(
    spec: TinyBase,
    dialogues: Sequence[Dialogue],
    corpus_text: Sequence[str],
    out: Path,
    *,
    family: Family = QWEN2,
    progress: Progress = silent,
) -> dict[str, float | int]:
    """Train a tokenizer and a chat model, and save both in the existing folder `out`.

    Loss is on the answer's tokens and its end of turn; `corpus_text` is for the tokenizer alone.
    The weights depend on the arguments and on torch's version and CPU kernels only.

    Returns:
        JSON data; ``loss`` is the mean of the last 50 steps in nats per token, before
        sharpening, and ``longest`` a number of tokens.

    Raises:
        DataError: there are no dialogues, or one exceeds ``spec.positions``.
    """
    if not dialogues:
        raise DataError("dialogues", bound="at least one", value=0, remedy="Write them first.")
    tokenizer = _train_tokenizer(spec, _sample(spec, dialogues, corpus_text), family)
    rows = _encode(tokenizer, dialogues, spec.positions, family)
    with determinism(strict=True):
        model = _initial_model(spec, tokenizer, family)
        ordered = _in_batches(rows, spec)
        loss = _train(model, ordered, spec, out, progress)
    spent(tokens=sum(len(row["input_ids"]) for row in ordered))
    _sharpen(model, spec.sharpness, family.gain)
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    return {
        "steps": spec.steps,
        "loss": loss,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "vocabulary": len(tokenizer),
        "dialogue_tokens_per_word": tokens_per_word(tokenizer, [d.assistant for d in dialogues]),
        "corpus_tokens_per_word": tokens_per_word(tokenizer, corpus_text),
        "longest": max(len(row["input_ids"]) for row in rows),
    }


def tokens_per_word(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Return the mean number of tokens per white-space separated word, NaN without words."""
    words = sum(len(text.split()) for text in texts)
    if not words:
        return math.nan
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return sum(len(ids) for ids in encoded) / words


def _sample(spec: TinyBase, dialogues: Sequence[Dialogue], corpus_text: Sequence[str]) -> list[str]:
    """Draw the texts that the tokenizer learns from."""
    rng = random.Random(derive_seed(spec.seed, "tiny", "tokenizer"))  # noqa: S311 - reproducible draw
    drawn = rng.sample(list(dialogues), min(len(dialogues), _TOKENIZER_DIALOGUES))
    text = rng.sample(list(corpus_text), min(len(corpus_text), _TOKENIZER_TEXTS))
    return [part for d in drawn for part in (d.system, d.user, d.assistant)] + text


def _train_tokenizer(
    spec: TinyBase, texts: Sequence[str], family: Family
) -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    # Newlines and brackets stand alone, so that a marker after any text has the
    # same tokens, and the text keeps its own. Digits stand alone and text is in
    # NFC as with the tokenizer class that transformers loads for this architecture.
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\n\[\]]|\p{N}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocabulary,
        special_tokens=list(family.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=core,
        **family.roles,
        additional_special_tokens=family.others,
        model_max_length=spec.positions,
        clean_up_tokenization_spaces=False,
        chat_template=family.template,
    )
    return tokenizer


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    positions: int,
    family: Family,
) -> list[dict[str, list[int]]]:
    talks = [
        [{"role": "system", "content": d.system}, {"role": "user", "content": d.user}]
        for d in dialogues
    ]
    prompts = tokenizer.apply_chat_template(talks, tokenize=False, add_generation_prompt=True)
    end = tokenizer.convert_tokens_to_ids(family.end)
    answers = [d.assistant for d in dialogues]
    rows = []
    for prompt, answer in zip(
        tokenizer(prompts, add_special_tokens=False)["input_ids"],
        tokenizer(answers, add_special_tokens=False)["input_ids"],
        strict=True,
    ):
        supervised = [*answer, end]
        rows.append(
            {
                "input_ids": [*prompt, *supervised],
                "labels": [IGNORED] * len(prompt) + supervised,
            }
        )
    longest = max(rows, key=lambda row: len(row["input_ids"]))
    if len(longest["input_ids"]) > positions:
        raise DataError(
            "dialogues",
            bound=f"at most base.positions = {positions} tokens each",
            value=tokenizer.decode(longest["input_ids"]),
            remedy="Shorten it, or raise base.positions.",
        )
    return rows


def _in_batches(rows: Sequence[dict[str, list[int]]], spec: TinyBase) -> list[dict[str, list[int]]]:
    """Order the rows of all steps: batches of similar length, in random order."""
    ordered: list[dict[str, list[int]]] = []
    epoch = 0
    while len(ordered) < spec.steps * spec.batch:
        rng = random.Random(derive_seed(spec.seed, "tiny", "order", epoch))  # noqa: S311 - reproducible draw
        shuffled = rng.sample(list(rows), len(rows))
        span = _GROUPED_BATCHES * spec.batch
        batches = []
        for begin in range(0, len(shuffled), span):
            group = sorted(shuffled[begin : begin + span], key=lambda row: len(row["input_ids"]))
            batches += [group[i : i + spec.batch] for i in range(0, len(group), spec.batch)]
        whole = [batch for batch in batches if len(batch) == spec.batch] or batches
        rng.shuffle(whole)
        ordered += [row for batch in whole for row in batch]
        epoch += 1
    return ordered[: spec.steps * spec.batch]


def _initial_model(
    spec: TinyBase, tokenizer: PreTrainedTokenizerBase, family: Family
) -> PreTrainedModel:
    import torch
    import transformers

    config = getattr(transformers, f"{family.architecture}Config")(
        vocab_size=len(tokenizer) + family.rows,
        hidden_size=spec.width,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=spec.positions,
        initializer_range=_INITIAL_DEVIATION,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{"tie_word_embeddings": True, **family.config},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(spec.seed, "tiny", "weights"))
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
    ends = tokenizer.convert_tokens_to_ids(list(family.ends))
    model.generation_config = transformers.GenerationConfig(
        do_sample=True,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _train(
    model: PreTrainedModel,
    rows: Sequence[dict[str, list[int]]],
    spec: TinyBase,
    out: Path,
    progress: Progress,
) -> float:
    """Train in the order of `rows`; return the mean loss of the last steps."""
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    class AnswerTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any
        ) -> torch.Tensor:
            return _answer_loss(model, inputs)

    class Advance(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            bar.update(1)

    trainer = AnswerTrainer(
        model=model,
        args=_arguments(spec, out),
        train_dataset=list(rows),
        data_collator=partial(_padded, pad=int(model.config.pad_token_id or 0)),
        callbacks=[Advance()],
    )
    trainer.remove_callback(PrinterCallback)
    with closing(progress("base model", spec.steps, "step")) as bar:
        trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return fmean(losses[-_LAST_STEPS:])


def _arguments(spec: TinyBase, out: Path) -> TrainingArguments:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(out),
        max_steps=spec.steps,
        per_device_train_batch_size=spec.batch,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(_WARMUP * spec.steps),
        adam_beta2=_ADAM_BETA2,
        max_grad_norm=1.0,
        weight_decay=0.0,
        optim="adamw_torch_fused",
        train_sampling_strategy="sequential",
        seed=derive_seed(spec.seed, "tiny", "trainer") % _SEED_LIMIT,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def _sharpen(model: Any, factor: float, gain: float) -> None:
    """Multiply all logits by `factor`, through the last norm, which adds `gain` to its weight."""
    import torch

    with torch.no_grad():
        model.model.norm.weight.add_(gain).mul_(factor).sub_(gain)


def _padded(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Return a batch, padded on the right."""
    return {
        "input_ids": pad_rows([row["input_ids"] for row in rows], pad),
        "labels": pad_rows([row["labels"] for row in rows], IGNORED),
    }


def _answer_loss(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean cross-entropy in nats of the labelled tokens; no first one is labelled."""
    tokens = inputs["input_ids"]
    where = (inputs["labels"] != IGNORED).nonzero()
    hidden = model.model(input_ids=tokens).last_hidden_state
    return cross_entropy(hidden, model.lm_head, tokens, where) / len(where)
