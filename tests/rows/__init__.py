"""Random small models, served with every default in place, whose answers are compared with the frameworks' own."""
