"""Policies, references, reward models and critics as transformers' own classes, and what is read off them."""
