"""The recipe of the small Phi-3 that ships with phi3kit: corpus, tokenizer, training, examination; and its weights."""
