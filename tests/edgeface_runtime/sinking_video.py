"""An H.264 video with B-frames whose rate sinks from 30 to 10 frames a second: sinking_video.py FILE; prints the times.

Run with the system's Python. Each frame is lighter than the one before.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst

COUNT, WIDE, HIGH = 120, 96, 64
Gst.init(None)
caps = f"video/x-raw,format=I420,width={WIDE},height={HIGH},framerate=0/1"
encoder = "x264enc bframes=3 b-adapt=false ! h264parse ! mp4mux"
pipeline = Gst.parse_launch(f"appsrc name=frames format=time caps={caps} ! {encoder} ! filesink location={sys.argv[1]}")
frames = pipeline.get_by_name("frames")
pipeline.set_state(Gst.State.PLAYING)
now = 0
for index in range(COUNT):
    buffer = Gst.Buffer.new_wrapped(bytes([16 + int(1.8 * index)]) * (WIDE * HIGH) + bytes([128]) * (WIDE * HIGH // 2))
    buffer.pts, buffer.duration = now, int(1e9 / (30 - 20 * index / COUNT))
    print(now / 1e9)
    now += buffer.duration
    frames.emit("push-buffer", buffer)
frames.emit("end-of-stream")
pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.EOS | Gst.MessageType.ERROR)
pipeline.set_state(Gst.State.NULL)
