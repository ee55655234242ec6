"""Small trained models that come with the package, and how they were trained."""

from segtrans.zoo.cards import Card, cards, load_zoo, read_card

__all__ = ["Card", "cards", "load_zoo", "read_card"]
