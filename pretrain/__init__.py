"""Self-supervised pretraining of vision transformers: DINO, DINO+SelfPatch and MoBY."""
