"""How whole evaluations of a MODEL of any kind are left out."""
