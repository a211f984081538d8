//! `#[mobula::main]` and `#[mobula::test]`: an `async fn` that something must run.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{Attribute, ItemFn, LitStr};

use crate::errors::Errors;
use crate::keys;

/// How a test is run; each makes a test of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Encoded,
}

impl Way {
    fn name(self) -> Ident {
        match self {
            Self::Plain => format_ident!("plain"),
            Self::Encoded => format_ident!("encoded"),
        }
    }

    /// Whether everything passes through the codec.
    fn encode_all(self) -> bool {
        self == Self::Encoded
    }
}

pub(crate) fn expand_main(keys: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    syn::meta::parser(|meta| Err(meta.error("#[mobula::main] takes no keys: say them to `mobula::init_with`")))
        .parse2(keys)?;
    let item = async_fn(item, "main")?;
    let (attrs, body) = apart(&item);
    let (vis, ident, output) = (&item.vis, &item.sig.ident, &item.sig.output);
    Ok(quote! {
        #(#attrs)*
        #vis fn #ident() #output {
            #body
            ::mobula::__private::run_main(#ident())
        }
    })
}

pub(crate) fn expand_test(keys: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let Ways { ways, cluster } = ways(keys)?;
    let item = async_fn(item, "test")?;
    let (attrs, body) = apart(&item);
    let (ident, output) = (&item.sig.ident, &item.sig.output);
    let test = |name: &Ident, way: Way, body: Option<&ItemFn>| {
        let encode_all = way.encode_all();
        quote! {
            #[::core::prelude::v1::test]
            #(#attrs)*
            fn #name() #output {
                #body
                ::mobula::__private::run_test(#encode_all, #ident)
            }
        }
    };
    if let ([way], None) = (&ways[..], &cluster) {
        return Ok(test(ident, *way, Some(&body)));
    }
    let tests = ways.iter().map(|way| test(&way.name(), *way, None));
    let on_cluster = cluster.map(|cluster| on_cluster(ident, &cluster));
    Ok(quote! {
        mod #ident {
            #[allow(unused_imports)]
            use super::*;
            #body
            #(#tests)*
            #on_cluster
        }
    })
}

/// The entry by which a program that has a cluster finds the test; the test itself starts none.
fn on_cluster(ident: &Ident, cluster: &OnCluster) -> TokenStream {
    let run = match cluster {
        OnCluster::Runs => quote! { Ok(|config| ::mobula::__private::run_on_cluster(config, #ident)) },
        // Named, because a program that has no other way of it would call it unused.
        OnCluster::Ignored { why } => quote! {{
            let _ = #ident;
            Err(#why)
        }},
    };
    quote! {
        ::mobula::__private::inventory::submit! {
            ::mobula::__private::ClusterTest { name: ::core::module_path!(), run: #run }
        }
    }
}

/// What an attribute says of the ways of its test.
struct Ways {
    ways: Vec<Way>,
    cluster: Option<OnCluster>,
}

/// Whether a test runs on a cluster as well.
enum OnCluster {
    Runs,
    Ignored { why: LitStr },
}

/// The ways listed in the attribute; none means plain.
fn ways(keys: TokenStream) -> syn::Result<Ways> {
    let (mut plain, mut encoded, mut cluster) = (None, None, None);
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("plain") {
            keys::once(&mut plain, &meta, Way::Plain)
        } else if meta.path.is_ident("encoded") {
            keys::once(&mut encoded, &meta, Way::Encoded)
        } else if meta.path.is_ident("cluster") {
            let on_cluster = on_cluster_or_not(&meta)?;
            keys::once(&mut cluster, &meta, on_cluster)
        } else {
            Err(keys::unknown(&meta, &["plain", "encoded", "cluster"]))
        }
    });
    parser.parse2(keys)?;
    let ways: Vec<_> = plain.into_iter().chain(encoded).collect();
    Ok(Ways { ways: if ways.is_empty() { vec![Way::Plain] } else { ways }, cluster })
}

/// `cluster`, or `cluster(ignore = "why")`.
fn on_cluster_or_not(meta: &ParseNestedMeta<'_>) -> syn::Result<OnCluster> {
    if !meta.input.peek(syn::token::Paren) {
        return Ok(OnCluster::Runs);
    }
    let no_reason = || meta.error("say why: `cluster(ignore = \"…\")`");
    let inside;
    syn::parenthesized!(inside in meta.input.fork());
    if inside.is_empty() {
        return Err(no_reason());
    }
    let mut why = None;
    meta.parse_nested_meta(|inner| match inner.path.is_ident("ignore") {
        true => keys::once(&mut why, &inner, inner.value()?.parse::<LitStr>()?),
        false => Err(keys::unknown(&inner, &["ignore"])),
    })?;
    let why = why.ok_or_else(no_reason)?;
    Ok(OnCluster::Ignored { why })
}

/// The user's function, to stand beside or inside what runs it, and the attributes that are said of the latter. It stays
/// a function because a block would not always infer the error type of its `?`.
fn apart(item: &ItemFn) -> (Vec<Attribute>, ItemFn) {
    let is_of_lints = |attribute: &Attribute| attribute.path().is_ident("allow") || attribute.path().is_ident("expect");
    let mut body = item.clone();
    let (lints, outer) = body.attrs.drain(..).partition(is_of_lints);
    body.attrs = lints;
    body.vis = syn::Visibility::Inherited;
    (outer, body)
}

fn async_fn(item: TokenStream, attribute: &str) -> syn::Result<ItemFn> {
    let item: ItemFn = syn::parse2(item)?;
    let mut errors = Errors::default();
    if item.sig.asyncness.is_none() {
        let ident = &item.sig.ident;
        errors
            .at(item.sig.fn_token, format_args!("#[mobula::{attribute}] runs what awaits: write `async fn {ident}()`"));
    }
    if let Some(input) = item.sig.inputs.first() {
        errors.at(input, format_args!("nobody calls it with arguments: write `async fn {}()`", item.sig.ident));
    }
    if let Some(parameter) = item.sig.generics.params.first() {
        errors.at(parameter, "nobody chooses a type for it: write the type out");
    }
    errors.finish(Some(item))
}
