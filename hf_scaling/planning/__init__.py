"""From fitted laws to decisions: what a budget buys best, what pre-training is worth, which runs to measure next."""
