// The few types of Microsoft.ML.OnnxRuntime that Program.cs uses, for machines that have a C# compiler but not the
// package. Signatures follow the package's; the session is not ONNX Runtime: it runs the one program "output = input"
// and finds the card in MODEL.onnx.metadata. So the client's own arithmetic can be compiled, run and compared.

using System;
using System.Collections;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace Microsoft.ML.OnnxRuntime.Tensors
{
    public abstract class Tensor<T> : IEnumerable<T>
    {
        protected T[] values;
        protected int[] dimensions;
        public int[] Dimensions { get { return dimensions; } } // a ReadOnlySpan<int> in the package
        public IEnumerator<T> GetEnumerator() { return ((IEnumerable<T>)values).GetEnumerator(); }
        IEnumerator IEnumerable.GetEnumerator() { return values.GetEnumerator(); }
    }

    public sealed class DenseTensor<T> : Tensor<T>
    {
        public DenseTensor(T[] values, int[] dimensions) // Memory<T> and ReadOnlySpan<int>: arrays convert to them
        {
            this.values = values;
            this.dimensions = dimensions;
        }
    }
}

namespace Microsoft.ML.OnnxRuntime
{
    using Microsoft.ML.OnnxRuntime.Tensors;

    public class NamedOnnxValue
    {
        public string Name;
        public object Value;
        public static NamedOnnxValue CreateFromTensor<T>(string name, Tensor<T> value)
        {
            return new NamedOnnxValue { Name = name, Value = value };
        }
        public Tensor<T> AsTensor<T>() { return (Tensor<T>)Value; }
    }

    public sealed class DisposableNamedOnnxValue : NamedOnnxValue, IDisposable
    {
        public void Dispose() { }
    }

    public interface IDisposableReadOnlyCollection<T> : IReadOnlyCollection<T>, IDisposable { }

    internal sealed class Results : List<DisposableNamedOnnxValue>, IDisposableReadOnlyCollection<DisposableNamedOnnxValue>
    {
        public void Dispose() { }
    }

    public sealed class NodeMetadata { }

    public sealed class ModelMetadata
    {
        public Dictionary<string, string> CustomMetadataMap { get; internal set; }
    }

    public sealed class InferenceSession : IDisposable
    {
        public InferenceSession(string path)
        {
            var custom = new Dictionary<string, string>();
            if (File.Exists(path + ".metadata")) custom["wsi_seg.card"] = File.ReadAllText(path + ".metadata");
            ModelMetadata = new ModelMetadata { CustomMetadataMap = custom };
            InputMetadata = new Dictionary<string, NodeMetadata> { { "image", new NodeMetadata() } };
            OutputMetadata = new Dictionary<string, NodeMetadata> { { "probabilities", new NodeMetadata() } };
        }

        public ModelMetadata ModelMetadata { get; private set; }
        public IReadOnlyDictionary<string, NodeMetadata> InputMetadata { get; private set; }
        public IReadOnlyDictionary<string, NodeMetadata> OutputMetadata { get; private set; }

        public IDisposableReadOnlyCollection<DisposableNamedOnnxValue> Run(
            IReadOnlyCollection<NamedOnnxValue> inputs, IReadOnlyCollection<string> outputNames)
        {
            return new Results { new DisposableNamedOnnxValue { Name = outputNames.Single(), Value = inputs.Single().Value } };
        }

        public void Dispose() { }
    }
}
