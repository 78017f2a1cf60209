"""Use cases of publishing: connecting channels, offering slots, booking and changing orders, watching over them."""
