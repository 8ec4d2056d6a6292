"""Builders of the models of the zoo, a file per library; ``tests/models.py`` lists them."""
