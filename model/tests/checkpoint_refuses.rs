//! Checkpoints: the shipped one is what its maker makes, and what does not match is refused by name.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use trimtab_model::Policy;
use trimtab_model::checkpoint::{Checkpoint, METADATA_KEY, Manifest, Range, SHIPPED};

/// A file with this metadata and these tensors, as some other program might write it.
fn file(metadata: Option<String>, tensors: &BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    safetensors::serialize(views, metadata.map(|text| HashMap::from([(METADATA_KEY.to_owned(), text)]))).unwrap()
}

fn shipped_tensors() -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let file = SafeTensors::deserialize(SHIPPED).unwrap();
    let tensors = file.tensors().into_iter();
    tensors.map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))).collect()
}

fn refused(bytes: &[u8], expected: &str) {
    let error = Policy::load(bytes).map(|policy| policy.version().to_owned()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

/// Refuses the shipped file with its manifest or tensors changed.
fn refused_when(
    change: impl FnOnce(&mut Manifest, &mut BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>),
    expected: &str,
) {
    let mut manifest = Checkpoint::from_bytes(SHIPPED).unwrap().manifest().clone();
    let mut tensors = shipped_tensors();
    change(&mut manifest, &mut tensors);
    refused(&file(Some(serde_json::to_string(&manifest).unwrap()), &tensors), expected);
}

#[test]
fn the_shipped_file_is_what_make_zero_checkpoint_writes() {
    let made = Checkpoint::zero(0).to_bytes().unwrap();
    assert!(made == SHIPPED, "run `cargo run -p trimtab-model --example make_zero_checkpoint`");
    assert_eq!(Policy::shipped().unwrap().version(), "zero-1");
}

#[test]
fn a_checkpoint_comes_back_from_its_bytes() {
    let zero = Checkpoint::zero(32);
    assert_eq!(Checkpoint::from_bytes(&zero.to_bytes().unwrap()).unwrap(), zero);
}

#[test]
fn what_is_not_whole_is_refused() {
    refused(&[], "0 bytes is not a whole safetensors file");
    refused(&SHIPPED[..100], "100 bytes is not a whole safetensors file");
    refused(&SHIPPED[..SHIPPED.len() - 1], "not a whole safetensors file");
    refused(b"not a checkpoint at all, but long enough for a header", "not a whole safetensors file");
}

#[test]
fn what_is_not_ours_is_refused() {
    refused(&file(None, &shipped_tensors()), "no metadata `trimtab`");
    refused(&file(Some("{".to_owned()), &shipped_tensors()), "metadata `trimtab`: EOF");
    refused(&file(Some("{}".to_owned()), &shipped_tensors()), "missing field `schema_version`");
    refused(
        &file(Some(r#"{"schema_version":7,"else":1}"#.to_owned()), &shipped_tensors()),
        "schema version 7, this Trimtab reads 2",
    );
}

#[test]
fn what_was_trained_on_other_features_is_refused() {
    refused_when(
        |m, _| m.features[2].name = "magic".to_owned(),
        "features[2] is `magic`, this Trimtab has `capacity_ratio`",
    );
    refused_when(|m, _| drop(m.context.pop()), "context[7] is nothing, this Trimtab has `error`");
    refused_when(
        |m, _| m.rule_parameters.push("more".to_owned()),
        "rule_parameters[5] is `more`, this Trimtab has nothing",
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    refused_when(|m, _| m.features[0].std = 0.0, "std of feature `rate_ratio` is 0, it must be finite and above 0");
    refused_when(|m, _| m.hidden = 2048, "hidden is 2048, it must be from 0 (linear) to 1024");
    let swapped = Some(Range { low: 2.0, high: 1.0 });
    refused_when(
        |m, _| m.context[0].seen = swapped,
        "lowest value of feature `endpoints` is 2, it must be finite and below the highest",
    );
    refused_when(|m, _| m.residual_clip = 50.0, "residual_clip is 50, it must be above 0, at most 3");
    refused_when(|m, _| m.hidden = 16, "tensor `context.bias` is missing, it must be 16 numbers");
    refused_when(|_, t| drop(t.remove("rule.bias")), "tensor `rule.bias` is missing, it must be 5 numbers");
    refused_when(
        |_, t| drop(t.insert("extra".to_owned(), (Dtype::F32, vec![1], vec![0; 4]))),
        "tensor `extra` is there, it must be left out",
    );
    refused_when(
        |_, t| drop(t.insert("rule.bias".to_owned(), (Dtype::F64, vec![4], vec![0; 32]))),
        "tensor `rule.bias` is F64 of shape [4], it must be F32 of shape [5]",
    );
    refused_when(
        |_, t| t.get_mut("rule.bias").unwrap().2[4..8].copy_from_slice(&f32::NAN.to_le_bytes()),
        "tensor `rule.bias` holds NaN at 1",
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(place in 0..SHIPPED.len(), byte: u8, cut in 0..SHIPPED.len()) {
        let mut bytes = SHIPPED.to_vec();
        bytes[place] = byte;
        let _ = Policy::load(&bytes);
        let _ = Policy::load(&bytes[..cut]);
    }
}
