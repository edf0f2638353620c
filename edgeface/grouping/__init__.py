"""Who is in a collection of photos, with nobody enrolled: faces grouped by person, shown, named and enrolled."""
