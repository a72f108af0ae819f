"""Recipes for other places, made of what the other modes are made of (`make places`)."""
