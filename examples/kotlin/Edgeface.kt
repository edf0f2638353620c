// A model file of `edgeface export` in Kotlin: its contract, its golden vectors, embeddings. One file, no dependency.
//
// docs/contract.md says what each key means. Whatever a file holds, reading it either gives a contract or throws
// an EdgefaceException of one line.

package edgeface

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.min
import kotlin.math.sqrt

class EdgefaceException(message: String) : Exception(message)

/** Takes the bytes of one input and gives the floats of one embedding: your engine. */
typealias Engine = (ByteBuffer) -> FloatArray

/** What an app needs of the contract, schema 1; [json] has all of it, as maps, lists, strings, doubles and booleans. */
class Contract(val json: Map<String, Any?>) {
    private val input: Map<*, *> = at(json, "input")
    private val embedding: Map<*, *> = at(json, "embedding")
    val name: String = at(json, "name")
    val precision: String = at(json, "precision")
    val licence: String = at(json, "licence")
    /** Height and width of an aligned face, in pixels. */
    val size = whole(at(input, "size"), 4096, "input.size")
    /** NCHW: all of one channel, then the next. */
    val isPlanar = oneOf(input, "layout", "NHWC", "NCHW")
    /** Feed (pixel - mean) / std as float32; else the pixels as they are. */
    val isFloat = oneOf(input, "dtype", "uint8", "float32")
    val isBgr = oneOf(input, "colour", "RGB", "BGR")
    val mean = floats(at(input, "mean"), 3, "input.mean")
    val std = floats(at(input, "std"), 3, "input.std")
    /** Floats of an embedding. */
    val length = whole(at(embedding, "length"), 1 shl 20, "embedding.length")
    /** False match rate to the least cosine of "the same person". */
    val thresholds: Map<Double, Double>
    /** Unit embeddings of the probe images; empty where there are none. */
    val golden: List<FloatArray>
    val minCosine: Double

    init {
        check(at<Double>(json, "schema") <= 1, "the contract has a newer schema: update this reader")
        check(std.all { it > 0 }, "the contract's input.std holds a value that is not positive")
        thresholds = at<Map<*, *>>(json, "thresholds").filterValues { it != null }.map { (rate, threshold) ->
            val far = (rate as String).toDoubleOrNull() ?: throw EdgefaceException("a threshold's rate is no number")
            far to at<Double>(threshold as? Map<*, *> ?: throw EdgefaceException("a threshold is of another type"), "value")
        }.toMap()
        val proof = json["golden"] as? Map<*, *>
        if (proof != null)
            check(at<String>(proof, "probes") == "edgeface-waves-1", "golden probes that are not known here: update this reader")
        minCosine = if (proof == null) 0.0 else at(proof, "min_cosine")
        golden = if (proof == null) emptyList() else at<List<*>>(proof, "embeddings").map { floats(it, length, "golden.embeddings") }
    }

    /** One aligned face, size × size RGB bytes, as the array that the graph takes: uint8, or float32 in this machine's order. */
    fun asInput(face: ByteArray): ByteBuffer {
        val area = size * size
        check(face.size == 3 * area, "a face is $size x $size RGB pixels")
        val made = ByteBuffer.allocateDirect(3 * area * if (isFloat) 4 else 1).order(ByteOrder.nativeOrder())
        for (pixel in 0 until area) for (c in 0 until 3) {
            val value = face[3 * pixel + if (isBgr) 2 - c else c]
            val at = if (isPlanar) c * area + pixel else 3 * pixel + c
            if (isFloat) made.putFloat(4 * at, ((value.toInt() and 255).toFloat() - mean[c]) / std[c]) else made.put(at, value)
        }
        return made
    }

    /** The embedding of one aligned face, of length 1. */
    fun embed(engine: Engine, face: ByteArray): FloatArray {
        val found = engine(asInput(face))
        check(found.size == length, "the graph gives another length than its contract says")
        check(found.all { it.isFinite() }, "the graph gave an embedding that is not finite")
        return unit(found)
    }

    /** The least cosine between the file's golden embeddings and the engine's; below [minCosine] it computes something else. */
    fun goldenCosine(engine: Engine): Double {
        check(golden.isNotEmpty(), "the file has no golden vectors")
        return golden.withIndex().map { (k, expected) -> cosine(unit(expected), embed(engine, probeImage(k, size))) }.min()!!
    }
}

/** The contract inside an ONNX, TFLite or ncnn file's bytes. */
fun readContract(bytes: ByteArray): Contract {
    val text = contractText(bytes)
    @Suppress("UNCHECKED_CAST")
    val json = JsonReader(text).document() as? Map<String, Any?> ?: throw EdgefaceException("the contract is not an object")
    return Contract(json)
}

fun unit(values: FloatArray): FloatArray {
    val length = sqrt(values.sumByDouble { it.toDouble() * it })
    return if (length == 0.0) values else FloatArray(values.size) { (values[it] / length).toFloat() }
}

fun cosine(a: FloatArray, b: FloatArray): Double = (0 until min(a.size, b.size)).sumByDouble { a[it].toDouble() * b[it] }

/** Probe image k of the rule edgeface-waves-1: size × size RGB pixels. */
fun probeImage(k: Int, size: Int): ByteArray {
    fun triangle(t: Int) = 255 - abs(255 - t % 511)
    return ByteArray(3 * size * size) { at ->
        val (y, x, c) = listOf(at / (3 * size), at / 3 % size, at % 3)
        val u = x * (k + 2) * 256 / size + 64 * c
        val v = y * (k + 1) * 256 / size + 32 * k
        ((triangle(u) + triangle(v)) / 2).toByte()
    }
}

private fun check(condition: Boolean, message: String) {
    if (!condition) throw EdgefaceException(message)
}

private inline fun <reified T> at(json: Map<*, *>, key: String): T {
    check(key in json, "the contract has no $key")
    return json[key] as? T ?: throw EdgefaceException("the contract's $key is of another type")
}

private fun whole(value: Double, high: Int, what: String): Int {
    check(value >= 1 && value <= high && value == floor(value), "the contract's $what is out of range")
    return value.toInt()
}

private fun oneOf(input: Map<*, *>, key: String, no: String, yes: String): Boolean {
    val text: String = at(input, key)
    check(text == no || text == yes, "the contract's input.$key is neither $no nor $yes")
    return text == yes
}

private fun floats(array: Any?, count: Int, what: String): FloatArray {
    check(array is List<*> && array.size == count, "the contract's $what has another length")
    return (array as List<*>).map { (it as? Double ?: throw EdgefaceException("the contract's $what holds no number")).toFloat() }.toFloatArray()
}

/** The contract's JSON, from a model file's bytes. Three small walks, whose indices the machine checks. */
fun contractText(bytes: ByteArray): String {
    check(bytes.isNotEmpty(), "the file is empty")
    fun holds(at: Int, text: String) = bytes.size >= at + text.length && text.indices.all { bytes[at + it] == text[it].toByte() }
    val text = try {
        if (holds(4, "TFL3")) tfliteText(bytes) else if (holds(257, "ustar")) ncnnText(bytes) else onnxText(bytes, 0, bytes.size)
    } catch (error: RuntimeException) { // an index outside, or a number that is none
        throw EdgefaceException("not a whole ONNX, TFLite or ncnn model")
    }
    return text ?: throw EdgefaceException("the file carries no edgeface contract; export it with edgeface")
}

/** Calls each(number, start, end) for every length-delimited field of a protobuf message. */
private fun eachField(bytes: ByteArray, start: Int, end: Int, each: (Long, Int, Int) -> Unit) {
    var at = start
    fun varint(): Long {
        var value = 0L
        for (shift in 0..63 step 7) {
            val byte = bytes[at++].toLong()
            value = value or (byte and 127 shl shift)
            if (byte >= 0) return value
        }
        throw IllegalArgumentException()
    }
    while (at < end) {
        val tag = varint()
        val wire = (tag and 7).toInt()
        require(tag ushr 3 != 0L && wire in intArrayOf(0, 1, 2, 5))
        if (wire == 0) { varint(); continue }
        val length = if (wire == 1) 8 else if (wire == 5) 4 else varint()
        require(length >= 0 && length <= end - at)
        if (wire == 2) each(tag ushr 3, at, at + length.toInt())
        at += length.toInt()
    }
    require(at == end)
}

private fun onnxText(bytes: ByteArray, start: Int, end: Int): String? {
    var found: String? = null
    eachField(bytes, start, end) { number, from, to ->
        if (number == 14L) { // metadata_props of ModelProto, onnx/onnx.proto
            val entry = HashMap<Long, String>()
            eachField(bytes, from, to) { field, first, last -> entry[field] = String(bytes, first, last - first, Charsets.UTF_8) }
            if (entry[1] == "edgeface") found = entry[2]
        }
    }
    return found
}

private fun tfliteText(bytes: ByteArray): String? {
    val view = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    fun number(at: Int) = view.getInt(at).also { require(it >= 0) }
    fun place(table: Int, field: Int): Int { // of a field in a FlatBuffer's table; 0 where it is absent
        val vtable = table - view.getInt(table)
        val entry = 4 + 2 * field
        val offset = if (entry < view.getShort(vtable).toInt() and 0xFFFF) view.getShort(vtable + entry).toInt() and 0xFFFF else 0
        return if (offset == 0) 0 else table + offset
    }
    fun vector(table: Int, field: Int): Pair<Int, Int> {
        val at = place(table, field)
        if (at == 0) return 0 to 0
        return at + number(at) + 4 to number(at + number(at))
    }
    fun text(table: Int, field: Int) = vector(table, field).let { (start, count) -> String(bytes, start, count, Charsets.UTF_8) }
    fun child(table: Int, field: Int, index: Int): Int {
        val (start, count) = vector(table, field)
        require(index < count)
        return start + 4 * index + number(start + 4 * index)
    }
    fun long(table: Int, field: Int) = place(table, field).let { if (it == 0) 0L else view.getLong(it) }

    // Of tensorflow/lite/schema/schema.fbs: Model.metadata is field 6, .buffers 4; Metadata.name 0, .buffer 1; Buffer.data 0.
    val model = number(0)
    var found: String? = null
    for (i in 0 until vector(model, 6).second) {
        val entry = child(model, 6, i)
        if (text(entry, 0) != "edgeface") continue
        val which = place(entry, 1)
        val buffer = child(model, 4, if (which == 0) 0 else number(which))
        val (behind, size) = long(buffer, 1) to long(buffer, 2) // of data behind the FlatBuffer
        require(behind in 0..bytes.size.toLong() && size in 0..bytes.size.toLong())
        found = if (behind > 1) String(bytes, behind.toInt(), size.toInt(), Charsets.UTF_8) else text(buffer, 0)
    }
    return found
}

/** Of a tar archive with model.param, model.bin and edgeface.json. */
private fun ncnnText(bytes: ByteArray): String? {
    var at = 0
    var found: String? = null
    while (at + 512 <= bytes.size && bytes[at] != 0.toByte()) {
        fun header(from: Int, length: Int) = String(bytes, at + from, length, Charsets.ISO_8859_1).takeWhile { it != '\u0000' && it != ' ' }
        val size = header(124, 12).ifEmpty { "0" }.toInt(8)
        require(size >= 0 && size <= bytes.size - at - 512)
        if (header(0, 100) == "edgeface.json") found = String(bytes, at + 512, size, Charsets.UTF_8)
        at += 512 + (size + 511) / 512 * 512
    }
    return found
}

/** JSON as maps, lists, strings, doubles, booleans and nulls. */
private class JsonReader(private val text: String) {
    private var at = 0

    fun document(): Any? = value(0).also { space(); expect(at == text.length) }

    private fun expect(condition: Boolean) = check(condition, "the contract is not JSON")
    private fun peek() = if (at < text.length) text[at] else '\u0000'
    private fun take(wanted: Char) = (peek() == wanted && at < text.length).also { if (it) at++ }
    private fun space() { while (peek() in " \t\r\n" && at < text.length) at++ }
    private fun word(wanted: String) = text.startsWith(wanted, at).also { if (it) at += wanted.length }

    private fun value(depth: Int): Any? {
        expect(depth < 64)
        space()
        if (take('{')) {
            val made = LinkedHashMap<String, Any?>()
            while (true) {
                space()
                if (take('}')) return made
                if (made.isNotEmpty()) expect(take(','))
                space()
                val key = string()
                space()
                expect(take(':'))
                made[key] = value(depth + 1)
            }
        }
        if (take('[')) {
            val made = ArrayList<Any?>()
            while (true) {
                space()
                if (take(']')) return made
                if (made.isNotEmpty()) expect(take(','))
                made.add(value(depth + 1))
            }
        }
        return when {
            peek() == '"' -> string()
            word("true") -> true
            word("false") -> false
            word("null") -> null
            else -> number()
        }
    }

    private fun number(): Double {
        val found = Regex("-?[0-9]+(\\.[0-9]+)?([eE][-+]?[0-9]+)?").find(text, at)
        expect(found != null && found.range.first == at)
        at += found!!.value.length
        return found.value.toDouble().also { expect(it.isFinite()) }
    }

    private fun string(): String {
        expect(take('"'))
        val made = StringBuilder()
        while (!take('"')) {
            expect(peek() >= ' ')
            if (!take('\\')) {
                made.append(text[at++])
                continue
            }
            val which = "\"\\/bfnrtu".indexOf(peek())
            expect(which >= 0)
            at++
            if (which < 8) made.append("\"\\/\b\u000C\n\r\t"[which]) else {
                expect(at + 4 <= text.length)
                made.append((text.substring(at, at + 4).toIntOrNull(16) ?: -1).also { expect(it >= 0) }.toChar())
                at += 4
            }
        }
        return made.toString()
    }
}
