"""Fine-tuning, reinforcement and encoder pretraining: the steps of `train_sft.py` (`sft`), `train_grpo.py` (`grpo`) and
`train_encoder.py` (`encoder_pretraining`), and the modules they use."""
