"""Who is on a photo? Enrols a folder of <name>/<photo> files, then names the faces of the photo.

python identify.py PEOPLE PHOTO [MODEL]
"""

import sys
from pathlib import Path

from edgeface_runtime import FaceRecognizer, Gallery

people, photo, *model = sys.argv[1:]
recognizer = FaceRecognizer(*model)
with Gallery.open("people.gallery", recognizer) as gallery:
    for file in sorted(Path(people).glob("*/*.*")):
        gallery.enroll(file.parent.name, file)
    for face in recognizer.identify(photo, gallery):
        print(face.name or "unknown", face.score)
