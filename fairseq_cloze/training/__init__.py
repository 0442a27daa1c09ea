"""Training: one command from passages to a fine-tuned model; fairseq-train does the work."""
