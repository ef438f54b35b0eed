"""Fine-tuning and encoder pretraining: the steps of `train_sft.py` (`sft`) and of `train_encoder.py`
(`encoder_pretraining`), and the modules they use."""
