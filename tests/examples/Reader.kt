// What test_kotlin.py asks of examples/kotlin/Edgeface.kt: one line of words a question on stdin, one line on stdout.

import edgeface.EdgefaceException
import edgeface.contractText
import edgeface.probeImage
import edgeface.readContract
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import java.util.Base64
import java.util.Random

fun digest(bytes: ByteArray) = Base64.getEncoder().encodeToString(MessageDigest.getInstance("SHA-256").digest(bytes))!!

fun answer(words: List<String>): String {
    val bytes = if (words[0] == "probe") ByteArray(0) else File(words[1]).readBytes()
    return when (words[0]) {
        "probe" -> digest(probeImage(words[1].toInt(), words[2].toInt()))
        "text" -> digest(contractText(bytes).toByteArray())
        "tell" -> readContract(bytes).run {
            val flags = listOf(isPlanar, isFloat, isBgr).joinToString("") { if (it) "1" else "0" }
            val numbers = mean.zip(std).flatMap { listOf(it.first, it.second) } + golden.flatMap { it.toList() }
            val known = thresholds.toSortedMap().flatMap { listOf(it.key, it.value) }
            (listOf(size, flags, length, minCosine) + numbers + known + listOf(name, precision, licence)).joinToString("\t")
        }
        "input" -> readContract(bytes).asInput(File(words[2]).readBytes()).run { ByteArray(capacity()).also { get(it) } }.let(::digest)
        "golden" -> {
            val answers = ByteBuffer.wrap(File(words[2]).readBytes()).order(ByteOrder.LITTLE_ENDIAN)
            val contract = readContract(bytes)
            contract.goldenCosine { FloatArray(contract.length) { answers.getFloat() } }.toString()
        }
        "torture" -> { // cut at many lengths, and changed at many places: a contract or an EdgefaceException
            val random = Random(1)
            val hurt = (0 until bytes.size step maxOf(1, bytes.size / 250)).map { bytes.copyOf(it) } + List(2000) {
                bytes.copyOf().also { copy -> repeat(1 + random.nextInt(4)) { copy[random.nextInt(copy.size)] = random.nextInt(256).toByte() } }
            }
            hurt.map { try { readContract(it); "fine" } catch (error: EdgefaceException) { error.message!! } }.distinct().joinToString("\t")
        }
        else -> "?"
    }
}

fun main() {
    for (line in generateSequence(::readLine)) println(try { answer(line.split('\t')) } catch (error: EdgefaceException) { "error: ${error.message}" })
}
