"""From frames to people: where frames come from, whom they show, who came and who left."""
