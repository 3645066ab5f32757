"""The network: frozen encoders, learnable context, adapter, LoRA, and how they are put together."""
