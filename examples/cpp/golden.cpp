// Opens a model file in OpenVINO by its C API, and says whether the answers are those that the file was made with.
//
//   ./golden mobilefacenet.int8.onnx

#include <openvino/c/openvino.h>

#include <cstdio>
#include <memory>

#include "edgeface.hpp"

static void check(ov_status_e status, const char* what) {
  if (status == OK) return;
  const char* said = ov_get_last_err_msg();
  throw edgeface::Error(std::string(what) + (said ? std::string(": ") + said : ""));
}

template <typename T>
using Held = std::unique_ptr<T, void (*)(T*)>;

/** An engine of edgeface.hpp: the file opened for one face at a time. */
static edgeface::Engine open_engine(const std::string& path, const edgeface::Contract& contract) {
  ov_core_t* core = nullptr;
  check(ov_core_create(&core), "OpenVINO does not start");
  const Held<ov_core_t> core_held(core, ov_core_free);

  ov_model_t* model = nullptr;
  check(ov_core_read_model(core, path.c_str(), nullptr, &model), "OpenVINO cannot open the file");
  const Held<ov_model_t> model_held(model, ov_model_free);

  const std::int64_t side = contract.size;
  const std::int64_t planar[] = {1, 3, side, side}, packed[] = {1, side, side, 3};
  ov_partial_shape_t batch_of_one;
  check(ov_partial_shape_create_static(4, contract.is_planar ? planar : packed, &batch_of_one), "shape");
  const ov_status_e reshaped = ov_model_reshape_single_input(model, batch_of_one);
  ov_partial_shape_free(&batch_of_one);
  check(reshaped, "the file does not take a batch of one");

  ov_compiled_model_t* compiled = nullptr;
  // Unless told, OpenVINO computes float32 files in bfloat16 where the processor has it.
  check(ov_core_compile_model(core, model, "CPU", 2, &compiled, ov_property_key_hint_inference_precision, "f32"),
        "OpenVINO cannot compile the file");
  const Held<ov_compiled_model_t> compiled_held(compiled, ov_compiled_model_free);

  ov_infer_request_t* request = nullptr;
  check(ov_compiled_model_create_infer_request(compiled, &request), "request");
  const std::shared_ptr<ov_infer_request_t> held(request, ov_infer_request_free);

  return [held](const edgeface::Bytes& input) {
    ov_tensor_t* tensor = nullptr;
    void* data = nullptr;
    std::size_t size = 0;
    check(ov_infer_request_get_input_tensor(held.get(), &tensor), "input");
    const Held<ov_tensor_t> taken(tensor, ov_tensor_free);
    check(ov_tensor_get_byte_size(tensor, &size), "input size");
    edgeface::require(size == input.size(), "the graph takes another input than its contract says");
    check(ov_tensor_data(tensor, &data), "input data");
    std::memcpy(data, input.data(), size);

    check(ov_infer_request_infer(held.get()), "OpenVINO cannot run the file");

    check(ov_infer_request_get_output_tensor(held.get(), &tensor), "output");
    const Held<ov_tensor_t> given(tensor, ov_tensor_free);
    ov_element_type_e type;
    check(ov_tensor_get_element_type(tensor, &type), "output type");
    edgeface::require(type == F32, "the graph does not give floats");
    check(ov_tensor_get_size(tensor, &size), "output size");
    check(ov_tensor_data(tensor, &data), "output data");
    const float* values = static_cast<const float*>(data);
    return std::vector<float>(values, values + size);
  };
}

int main(int count, char** words) {
  try {
    edgeface::require(count == 2, "usage: golden MODEL");
    const edgeface::Contract contract = edgeface::read_contract(edgeface::read_file(words[1]));
    std::printf("%s %s: %d x %d pixels to %d floats\n", contract.name.c_str(), contract.precision.c_str(), contract.size,
                contract.size, contract.length);
    for (const auto& [rate, threshold] : contract.thresholds) std::printf("  false match rate %g: cosine %.3f\n", rate, threshold);
    const double least = edgeface::golden_cosine(open_engine(words[1], contract), contract);
    const bool agrees = least >= contract.min_cosine;
    std::printf("golden vectors: cosine %.6f, %s\n", least, agrees ? "as it should be" : "this engine computes something else");
    return agrees ? 0 : 1;
  } catch (const edgeface::Error& error) {
    std::fprintf(stderr, "golden: %s\n", error.what());
    return 2;
  }
}
