"""What `train_sft.py` is made of: arguments, components, warm start, collator and trainer, generation."""
